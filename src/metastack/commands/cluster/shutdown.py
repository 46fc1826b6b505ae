"""``cluster shutdown``: every host stops its guests at once and keeps its VMs, so that all can be switched off.

Owns: validation, one transaction for each verb, and how far the hosts are.
Refuses: switching a host off: that is a person's work, once their guests are off.
Rule: as with a maintenance, it does not begin while a live agent is of a release that would not heed it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from metastack.core.model import ClusterShutdown
from metastack.core.protocol import cluster_shutdown
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.keys import Kind

from .. import names
from ..problem import Code, Problem, conflict
from ..reading import follow, read_world
from ..request import Cluster, Plan, Request
from ..spans import span_s, span_words
from .announced import Replacing, announce, withdraw
from .maintenance import MAX_S, MIN_S, OBJECT, heedless

NEEDED: Final = (
    Kind.CLUSTER_SHUTDOWN,
    Kind.HOST_RETURN,
    Kind.NODE_ALIVE,
    Kind.NODE_FACTS,
    Kind.NODE_SPEC,
    Kind.CLAIM,
    Kind.VM_STATUS,
)
"""What its view is made of."""
DONE: Final = ("off", "gone")


class HostDown(Struct, kw_only=True):
    """How far one host is."""

    name: str
    state: str
    """``stopping``, ``off`` (its guests are), ``gone``, ``back`` (it has booted since)."""
    vms: int
    """VMs that are its own."""


class ShutdownView(Struct, kw_only=True):
    """The cluster's shutdown, or that none is on."""

    on: bool
    by: str | None = None
    reason: str | None = None
    at: str | None = None
    ttl_s: int | None = None
    left_s: int | None = None
    """Until hosts that are still up start their VMs again."""
    hosts: list[HostDown] = []
    broken: bool = False


def check_shutdown(reason: str, within: str) -> int:
    """Its time in seconds; raises Problem for a bad reason or time, before anything is done."""
    names.needed_reason(reason, OBJECT, "shutdown")
    return span_s("within", within, MIN_S, MAX_S)


async def begin_shutdown(cluster: Cluster, request: Request, within: str) -> ShutdownView:
    """Have every host stop its guests, or replace the time of the shutdown that is on."""
    ttl_s = check_shutdown(request.reason, within)

    async def look(lease: int) -> Replacing[None]:
        world = await _world(cluster)
        if older := heedless(world):
            raise conflict(
                OBJECT,
                f"the agents of {', '.join(older)} are of an older release and do not heed a shutdown",
                "upgrade them, or stop them",
            )
        living = ((name, world.alive(name)) for name in world.nodes())
        boots = {name: found.record.boot_id for name, found in living if found and found.record}
        if not boots:
            raise conflict(OBJECT, "no node is alive", "start the agents, then their hosts can be shut down")
        found = world.cluster_shutdown()
        record = ClusterShutdown(by=request.by, reason=request.reason, boots=boots, at=request.at, ttl_s=ttl_s)
        change = cluster_shutdown.begin(cluster.keys, found, record, lease)
        plan = Plan(
            guards=change.guards,
            effects=change.effects,
            what="cluster.shutdown",
            object=OBJECT,
            message=f"within {span_words(ttl_s)}",
            answer=None,
            lease=lease,
        )
        return found, plan

    await announce(cluster, request, ttl_s, look)
    return await show_shutdown(cluster)


async def cancel_shutdown(cluster: Cluster, request: Request) -> bool:
    """Hosts that are still up start their VMs again; false when no shutdown was on."""

    async def look() -> Replacing[bool] | None:
        found = (await _world(cluster)).cluster_shutdown()
        if found is None:
            return None
        change = cluster_shutdown.end(cluster.keys, found)
        plan = Plan(
            guards=change.guards,
            effects=change.effects,
            what="cluster.shutdown",
            object=OBJECT,
            message="cancelled",
            answer=True,
        )
        return found, plan

    return await withdraw(cluster, request, look)


async def wait_off(cluster: Cluster, timeout_s: float, told: Callable[[str], None]) -> ShutdownView:
    """Wait until the guests of every host are off. Raises Problem at the timeout."""
    before = ""
    try:
        async with asyncio.timeout(timeout_s), follow(cluster, cluster.keys.prefixes(NEEDED)) as follower:
            while True:
                view = shutdown_view(follower.world, None)
                left = [host for host in view.hosts if host.state not in DONE]
                if not view.on:
                    raise conflict(OBJECT, "the shutdown was cancelled, or its time is over", "begin it again")
                if not left:
                    return view
                said = "guests stop on " + ", ".join(f"{host.name} ({host.vms} VMs)" for host in left)
                if said != before:
                    told(said)
                    before = said
                await follower.changed()
    except TimeoutError:
        raise Problem(
            Code.TIMEOUT,
            OBJECT,
            f"{before} after {timeout_s:g} s",
            "the hosts continue; `metastack cluster shutdown --cancel` starts the VMs again",
        ) from None


async def show_shutdown(cluster: Cluster) -> ShutdownView:
    """Whether one is on, and how far the hosts are."""
    world = await _world(cluster)
    found = world.cluster_shutdown()
    left = int(await cluster.store.left_s(found.lease)) if found is not None and found.lease else None
    return shutdown_view(world, left)


def shutdown_view(world: ClusterState, left_s: int | None) -> ShutdownView:
    """What a reader should know of it. Pure."""
    found = world.cluster_shutdown()
    if found is None:
        return ShutdownView(on=False)
    record = found.record
    if record is None:
        return ShutdownView(on=True, left_s=left_s, broken=True)
    counts: dict[str, int] = {}
    for _, claim in world.claims():
        if claim.record is not None:
            counts[claim.record.node] = counts.get(claim.record.node, 0) + 1
    return ShutdownView(
        on=True,
        by=record.by,
        reason=record.reason,
        at=record.at or None,
        ttl_s=record.ttl_s,
        left_s=left_s,
        hosts=[
            HostDown(name=name, state=_state(world, name, boot, counts.get(name, 0)), vms=counts.get(name, 0))
            for name, boot in sorted(record.boots.items())
        ],
    )


def _state(world: ClusterState, node: str, boot: str, vms: int) -> str:
    alive = world.alive(node)
    if alive is None:
        return "gone"
    if alive.record is not None and alive.record.boot_id != boot:
        return "back"
    return "stopping" if vms and world.host_return(node) is None else "off"


def in_words(view: ShutdownView) -> str:
    """It in one line; empty when none is on."""
    if not view.on:
        return ""
    off = sum(host.state in DONE for host in view.hosts)
    left = f", for another {span_words(view.left_s)}" if view.left_s is not None else ""
    about = "its record cannot be read" if view.broken else f"{view.reason}, {view.by}"
    return f"shutdown of the cluster ({about}): guests are off on {off} of {len(view.hosts)} hosts{left}"


async def _world(cluster: Cluster) -> ClusterState:
    return await read_world(cluster, cluster.keys.prefixes(NEEDED))
