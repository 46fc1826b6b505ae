"""A node as readers see it: its lease, its facts, its fence and what people want of it as one. Pure."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from metastack.core.model import NodeState, OnHostShutdown, Resources
from metastack.core.placement import NodeView as Room
from metastack.core.placement import node_state, node_views
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.fence_proof import UNBLOCKED

from ..fence.views import FenceView, brake_held, fence_view, fencer_words, return_words, returned
from .change import full_taint


class NodeInfo(Struct, kw_only=True):
    """A node as a reader sees it."""

    name: str
    state: str
    session: int | None = None
    address: str | None = None
    storage_address: str | None = None
    capacity: Resources | None = None
    """What the machine has."""
    room: Resources | None = None
    """What it may promise: after host reserve and overcommit."""
    allocated: Resources | None = None
    vms: int = 0
    hypervisor: str | None = None
    hypervisor_why: str | None = None
    message: str | None = None
    since: str | None = None
    ready: bool = False
    cordoned: bool = False
    draining: bool = False
    labels: dict[str, str] = {}
    taints: list[str] = []
    storage: str | None = None
    bridges: list[str] = []
    console: str | None = None
    storage_addresses: list[str] = []
    fenced_through: int | None = None
    fence: FenceView | None = None
    """The last fence's receipt, and the open one."""
    brake: str | None = None
    """Why it fences nobody right now."""
    on_host_shutdown: str | None = None
    """Its own policy; None: the cluster's setting."""
    leaving: str | None = None
    """Its host is shutting down, or was: ``release`` or ``return``, what becomes of its VMs."""
    returns_within_s: int | None = None
    """So long its VMs wait for the return of its host, counted from its shutdown."""
    storage_silent_since: str | None = None
    """Since when its storage does not answer; its VMs are stalled."""
    warnings: list[str] = []
    """What it finds wrong with itself."""
    versions: dict[str, str] = {}
    lag_ms: int | None = None
    uuid: str | None = None
    by: str | None = None
    """The user or node that changed its spec last."""
    reason: str | None = None
    request_id: str | None = None
    broken: bool = False
    deleted: bool = False


LEAVING: Final = {
    "release": "its guests are asked to stop, and other nodes start its VMs",
    "return": "its guests are asked to stop, and its VMs wait for its return",
}


def node_infos(world: ClusterState) -> list[NodeInfo]:
    """Every node that joined or is alive, sorted."""
    rooms = {room.name: room for room in node_views(world)}
    counts: dict[str, int] = {}
    for _, held in world.claims():
        if held.record is not None:
            counts[held.record.node] = counts.get(held.record.node, 0) + 1
    return [_node_info(world, name, rooms[name], counts.get(name, 0)) for name in world.nodes()]


def _node_info(world: ClusterState, name: str, room: Room, vms: int) -> NodeInfo:
    alive, facts, desired, fence = (
        world.alive(name),
        world.facts(name),
        world.node_spec(name),
        world.fence(name),
    )
    info = NodeInfo(name=name, state=node_state(world, name).value, vms=vms, allocated=room.promised)
    info.session = world.session(name) or None
    if fence is not None and fence.record is not None:
        info.fenced_through = fence.record.through or None
    info.fence = fence_view(world, name)
    if facts is not None and facts.record is not None:
        info.uuid = facts.record.uuid or None
        info.storage_addresses = list(facts.record.storage_addresses)
    if desired is not None and desired.record is not None:
        info.cordoned, info.draining, info.labels = (
            desired.record.cordoned,
            desired.record.draining,
            desired.record.labels,
        )
        info.taints = [full_taint(taint) for taint in desired.record.taints]
        info.on_host_shutdown = desired.record.on_host_shutdown
        info.by, info.reason = desired.record.by or None, desired.record.reason or None
        info.request_id = desired.record.request_id or None
    if alive is not None and alive.record is not None:
        told = alive.record
        info.address, info.storage_address = told.address or None, told.storage_address or None
        info.capacity, info.room = told.capacity, room.room
        info.hypervisor, info.hypervisor_why = told.hypervisor or None, told.hypervisor_why or None
        info.message, info.since, info.ready = told.message or None, told.since or None, told.ready
        info.storage, info.console, info.lag_ms = told.storage or None, told.console or None, told.lag_ms
        info.bridges, info.versions = list(told.bridges), told.versions
        info.brake, info.warnings = told.brake or None, list(told.warnings)
        info.storage_silent_since, info.leaving = told.storage_silent_since or None, told.leaving or None
        if told.leaving:
            info.message = f"its host is shutting down: {LEAVING[told.leaving]}"
        if told.storage_silent_since:
            info.message = info.message or f"the storage has not answered since {told.storage_silent_since}"
        if not told.ready:
            # A node that takes nothing yet is not ready in any reader's sense.
            info.state = NodeState.LOST.value
            info.message = told.message or "registered but not ready yet"
    elif alive is None:
        info.message = return_words(world, name) or _lost(world, name)
        left = world.host_return(name)
        if left is not None and left.record is not None:
            info.leaving, info.returns_within_s = OnHostShutdown.RETURN.value, left.record.ttl_s
    unreadable = [
        found.why for found in (alive, facts, desired, fence) if found is not None and found.record is None
    ]
    if unreadable:
        info.broken, info.message = True, f"unreadable record, ignored: {unreadable[0]}"
    return info


def _ended(world: ClusterState, name: str) -> str:
    """How its session ended."""
    fence, mark = world.fence(name), world.silenced()
    if fence is None or fence.record is None or mark is None or mark.record is None:
        return "its lease expired"
    said = {fence.record.intent_reason, fence.record.receipt.reason if fence.record.receipt else ""} - {""}
    of_it = mark.record.node == name and mark.record.reason in said
    return f"it was fenced while alive, because {mark.record.reason}" if of_it else "its lease expired"


def _lost(world: ClusterState, name: str) -> str:
    fence, since, ended = world.fence(name), "", _ended(world, name)
    if fence is not None and fence.record is not None:
        if fence.record.intent:
            return f"{ended}; {fencer_words(fence.record)}"
        receipt = fence.record.receipt
        if receipt is not None and receipt.method == UNBLOCKED:
            return f"{ended}; its block was lifted by hand at {receipt.at} by {receipt.by}"
        if receipt is not None and not returned(world, name):
            return f"{ended}; fenced at {receipt.at} by {receipt.by}"
        if receipt is not None:
            since = " since it returned"
    held = brake_held(world)
    return f"{ended}; not fenced{since}" + (f": {held}" if held else "")
