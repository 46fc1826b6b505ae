"""``cluster maintenance``: a person pauses fences, takeovers and moves for a while.

Owns: validation, one transaction for each verb, and what a reader learns of it.
Refuses: clocks: the time that is left is asked of etcd, which alone counts it.
Rule: it does not begin while a live agent is of a release that would not heed it.
"""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from metastack.core.model import Maintenance
from metastack.core.protocol import maintenance
from metastack.core.state.cluster_state import ClusterState, Seen
from metastack.core.state.keys import Kind
from metastack.core.transaction import Lease

from .. import names
from ..problem import Code, Problem, usage
from ..reading import read_world
from ..request import Cluster, Plan, Request, Unchanged, commit

NEEDED: Final = (Kind.MAINTENANCE, Kind.NODE_ALIVE, Kind.NODE_FACTS, Kind.NODE_SPEC, Kind.FENCE, Kind.CLAIM)
"""What its view is made of."""
OBJECT: Final = "cluster"
DEFAULT_FOR: Final = "1h"
MIN_S: Final = 10
MAX_S: Final = 7 * 86_400
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SPAN: Final = re.compile(r"([0-9]{1,6})([smhd])")


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


def span_s(field: str, text: str, least_s: int, most_s: int) -> int:
    """A time such as ``30m`` in seconds; raises Problem."""
    span = _SPAN.fullmatch(text.strip())
    time_s = int(span[1]) * _UNITS_S[span[2]] if span else 0
    if not least_s <= time_s <= most_s:
        most = f"{most_s // 86_400} d" if most_s > 86_400 else f"{most_s // 3_600} h"
        raise usage(field, f"{text!r} is not a time from {least_s} s to {most}", "such as 30m, 2h or 1d")
    return time_s


async def begin_maintenance(cluster: Cluster, request: Request, lasts: str) -> MaintenanceView:
    """Begin it, or replace the one that is on: its time counts from now."""
    ttl_s = check_maintenance(request.reason, lasts)
    lease = await cluster.store.grant(ttl_s)
    old: list[int] = []

    async def look() -> Plan[None]:
        world = await _world(cluster)
        if older := heedless(world):
            raise Problem(
                Code.CONFLICT,
                OBJECT,
                f"the agents of {', '.join(older)} are of an older release and do not heed a maintenance",
                "upgrade them, or stop them",
            )
        found = world.maintenance()
        old[:] = [found.lease] if found is not None else []
        record = Maintenance(by=request.by, reason=request.reason, at=request.at, ttl_s=ttl_s)
        change = maintenance.begin(cluster.keys, found, record, lease.id)
        return Plan(
            guards=change.guards,
            effects=change.effects,
            what="cluster.maintenance",
            object=OBJECT,
            message=f"on for {words(ttl_s)}",
            answer=None,
            lease=lease.id,
        )

    try:
        await commit(cluster, request, look)
    except Problem:
        await cluster.store.revoke(lease)
        raise
    await _revoke(cluster, old)
    return await show_maintenance(cluster)


async def end_maintenance(cluster: Cluster, request: Request) -> MaintenanceView | None:
    """End it before its time; None when none was on."""
    old: list[int] = []

    async def look() -> Plan[bool] | Unchanged[bool]:
        found = (await _world(cluster)).maintenance()
        if found is None:
            return Unchanged(False)
        old[:] = [found.lease]
        change = maintenance.end(cluster.keys, found)
        return Plan(
            guards=change.guards,
            effects=change.effects,
            what="cluster.maintenance",
            object=OBJECT,
            message="off",
            answer=True,
        )

    if not await commit(cluster, request, look):
        return None
    await _revoke(cluster, old)
    return await show_maintenance(cluster)


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
    left = f" for another {words(view.left_s)}" if view.left_s is not None else " until a person ends it"
    return f"maintenance{left} ({about}): no node is fenced, no VM is taken over or moved"


def words(seconds: int) -> str:
    """``1 h 50 min``; below two minutes seconds."""
    if seconds < 120:
        return f"{seconds} s"
    hours, minutes = divmod(seconds // 60, 60)
    days, hours = divmod(hours, 24)
    parts = ((days, "d"), (hours, "h"), (minutes, "min"))
    return " ".join(f"{count} {unit}" for count, unit in parts if count)


async def _world(cluster: Cluster) -> ClusterState:
    return await read_world(cluster, cluster.keys.prefixes(NEEDED))


async def _revoke(cluster: Cluster, leases: list[int]) -> None:
    """Leases that nothing hangs on any more: they would end by themselves, days later."""
    for ident in filter(None, leases):
        await cluster.store.revoke(Lease(id=ident, ttl_s=0, deadline_s=0.0))
