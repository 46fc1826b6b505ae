"""``cluster maintenance``: a person pauses fences, takeovers and moves for a while.

Owns: validation, one transaction for each verb, and what a reader learns of it.
Refuses: clocks: the time that is left is asked of etcd, which alone counts it.
Rule: it does not begin while a live agent is of a release that would not heed it.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from metastack.core.model import Maintenance
from metastack.core.protocol import maintenance
from metastack.core.state.cluster_state import ClusterState, Seen
from metastack.core.state.keys import Kind

from .. import names
from ..problem import Code, Problem
from ..reading import read_world
from ..request import Cluster, Plan, Request
from ..spans import span_s, span_words
from .announced import Replacing, announce, withdraw

NEEDED: Final = (Kind.MAINTENANCE, Kind.NODE_ALIVE, Kind.NODE_FACTS, Kind.NODE_SPEC, Kind.FENCE, Kind.CLAIM)
"""What its view is made of."""
OBJECT: Final = "cluster"
DEFAULT_FOR: Final = "1h"
MIN_S: Final = 10
MAX_S: Final = 7 * 86_400


class MaintenanceView(Struct, kw_only=True):
    """The maintenance that is on, or that none is."""

    on: bool
    by: str | None = None
    reason: str | None = None
    at: str | None = None
    """When it began, by the clock of the person's machine."""
    ttl_s: int | None = None
    left_s: int | None = None
    """Until etcd ends it."""
    heedless: list[str] = []
    """Live nodes whose agents are of an older release: they fence and drain all the same."""
    lost: list[str] = []
    """Lost nodes whose VMs wait: they are fenced when it ends."""
    broken: bool = False
    """Its record cannot be read. It holds all the same."""


def check_maintenance(reason: str, lasts: str) -> int:
    """Its time in seconds; raises Problem for a bad reason or time, before anything is done."""
    names.needed_reason(reason, OBJECT, "maintenance")
    return span_s("for", lasts, MIN_S, MAX_S)


async def begin_maintenance(cluster: Cluster, request: Request, lasts: str) -> MaintenanceView:
    """Begin it, or replace the one that is on: its time counts from now."""
    ttl_s = check_maintenance(request.reason, lasts)

    async def look(lease: int) -> Replacing[None]:
        world = await _world(cluster)
        if older := heedless(world):
            raise Problem(
                Code.CONFLICT,
                OBJECT,
                f"the agents of {', '.join(older)} are of an older release and do not heed a maintenance",
                "upgrade them, or stop them",
            )
        found = world.maintenance()
        record = Maintenance(by=request.by, reason=request.reason, at=request.at, ttl_s=ttl_s)
        change = maintenance.begin(cluster.keys, found, record, lease)
        plan = Plan(
            guards=change.guards,
            effects=change.effects,
            what="cluster.maintenance",
            object=OBJECT,
            message=f"on for {span_words(ttl_s)}",
            answer=None,
            lease=lease,
        )
        return found, plan

    await announce(cluster, request, ttl_s, look)
    return await show_maintenance(cluster)


async def end_maintenance(cluster: Cluster, request: Request) -> MaintenanceView | None:
    """End it before its time; None when none was on."""

    async def look() -> Replacing[bool] | None:
        found = (await _world(cluster)).maintenance()
        if found is None:
            return None
        change = maintenance.end(cluster.keys, found)
        plan = Plan(
            guards=change.guards,
            effects=change.effects,
            what="cluster.maintenance",
            object=OBJECT,
            message="off",
            answer=True,
        )
        return found, plan

    return await show_maintenance(cluster) if await withdraw(cluster, request, look) else None


async def show_maintenance(cluster: Cluster) -> MaintenanceView:
    """Whether one is on, for how long, and what it holds back."""
    world = await _world(cluster)
    return maintenance_view(world, await left_s(cluster, world))


async def left_s(cluster: Cluster, world: ClusterState) -> int | None:
    """Seconds until etcd ends it; None when none is on."""
    found = world.maintenance()
    return int(await cluster.store.left_s(found.lease)) if found is not None and found.lease else None


def maintenance_view(world: ClusterState, left_s: int | None) -> MaintenanceView:
    """What a reader should know of it. Pure."""
    found: Seen[Maintenance] | None = world.maintenance()
    lost = [name for name in world.nodes() if world.alive(name) is None and world.unfenced(name)]
    if found is None:
        return MaintenanceView(on=False, lost=lost)
    record = found.record
    return MaintenanceView(
        on=True,
        by=record.by if record is not None else None,
        reason=record.reason if record is not None else None,
        at=(record.at or None) if record is not None else None,
        ttl_s=record.ttl_s if record is not None else None,
        left_s=left_s,
        heedless=heedless(world),
        lost=lost,
        broken=record is None,
    )


def heedless(world: ClusterState) -> list[str]:
    """Live nodes whose agents do not say that they heed a maintenance."""
    living = ((name, world.alive(name)) for name in world.nodes())
    return [
        n for n, found in living if found is not None and found.record is not None and not found.record.pauses
    ]


def in_words(view: MaintenanceView) -> str:
    """It in one line; empty when none is on."""
    if not view.on:
        return ""
    about = "its record cannot be read" if view.broken else f"{view.reason}, {view.by}"
    left = f" for another {span_words(view.left_s)}" if view.left_s is not None else " until a person ends it"
    return f"maintenance{left} ({about}): no node is fenced, no VM is taken over or moved"


async def _world(cluster: Cluster) -> ClusterState:
    return await read_world(cluster, cluster.keys.prefixes(NEEDED))
