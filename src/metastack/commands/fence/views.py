"""What readers see of a node's fences: receipts, the open intent, and what stands in its way. Pure.

Owns: the fields of ``fence show -o json``. Refuses: reading and writing.
Rule: a view says only what its records prove.
"""

from __future__ import annotations

from datetime import UTC, datetime

from msgspec import Struct

from metastack.core.model import Fence, token
from metastack.core.placement import node_state
from metastack.core.protocol import fences
from metastack.core.protocol.host_return import expected
from metastack.core.protocol.maintenance import paused
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.fence_proof import UNBLOCKED
from metastack.core.state.keys import Kind


class FenceView(Struct, kw_only=True):
    """What is known of a node's fences."""

    name: str
    state: str
    """``fenced``, ``open`` (being fenced), ``unblocked`` (by hand), ``none``; or ``broken``."""
    node_state: str
    returned: bool = False
    """It came back since: what is told of the fence is the past, its last session is not shut out."""
    fenced_through: int | None = None
    """Every session of the node up to this one is shut out of the storage."""
    unfenced_claims: int = 0
    """VMs that it owns and that no fence reaches."""
    at: str | None = None
    by: str | None = None
    method: str | None = None
    addresses: list[str] = []
    clients: list[str] = []
    """Single clients that were blocked, where nodes share an address."""
    users: list[str] = []
    """Users of guests that lost their rights."""
    osd_epoch: int | None = None
    """Ceph's OSD map that carries the block."""
    verified: str | None = None
    reason: str | None = None
    intent_by: str | None = None
    """Node that is fencing it right now, ``(by hand)`` or ``(anyone)``: no node has taken it up yet."""
    intent_at: str | None = None
    intent_reason: str | None = None
    trouble: str | None = None
    """What stands in the way of the open fence, in the words of the node that tries."""
    broken: bool = False
    deleted: bool = False


def fence_views(world: ClusterState) -> list[FenceView]:
    """Every node of which a fence is known, sorted."""
    return [view for name in _fenced_names(world) if (view := fence_view(world, name)) is not None]


def _fenced_names(world: ClusterState) -> list[str]:
    return sorted({names_[0] for names_ in world.names(Kind.FENCE)})


def fence_view(world: ClusterState, name: str) -> FenceView | None:
    """One node's fences; None when there never was one."""
    found = world.fence(name)
    if found is None:
        return None
    view = FenceView(name=name, state="none", node_state=node_state(world, name).value)
    view.unfenced_claims = len(unfenced(world, name))
    fence = found.record
    if fence is None:
        view.state, view.broken, view.trouble = "broken", True, f"unreadable record, ignored: {found.why}"
        return view
    view.fenced_through, view.returned = fence.through or None, returned(world, name)
    receipt = fence.receipt
    if receipt is not None:
        view.state = "unblocked" if receipt.method == UNBLOCKED else "fenced"
        view.at, view.by, view.method = receipt.at or None, receipt.by, receipt.method
        view.addresses, view.osd_epoch = list(receipt.addresses), receipt.osd_epoch or None
        view.clients, view.users = list(receipt.clients), list(receipt.users)
        view.verified, view.reason = receipt.verified or None, receipt.reason or None
    if fence.intent:
        view.state, view.intent_by = "open", fence.intent_by
        view.intent_at, view.intent_reason = fence.intent_at or None, fence.intent_reason or None
        view.trouble = trouble(world, name) or None
    return view


def unfenced(world: ClusterState, node: str) -> list[str]:
    """VMs of sessions of the node that no fence reaches."""
    through = world.shut_out_through(node)
    return sorted(
        str(vm)
        for vm, held in world.claims()
        if held.record is not None and held.record.node == node and held.record.session > through
    )


def returned(world: ClusterState, node: str) -> bool:
    """Whether the node had a session that its last fence does not reach: it lifted its block itself.

    Safety of what this reports: a session declares its addresses under ``alive = S``, so a declaration of this
    generation that is newer than ``through`` was made in a later session. One of an older generation, or one
    that ``node unfence`` wrote, proves nothing.
    """
    through = world.fenced_through(node)
    if world.session(node) > through or any(
        held.record is not None and held.record.node == node and held.record.session > through
        for _, held in world.claims()
    ):
        return True
    fence, facts = world.fence(node), world.facts(node)
    receipt = fence.record.receipt if fence is not None and fence.record is not None else None
    if facts is None or facts.record is None or (receipt is not None and receipt.method == UNBLOCKED):
        return False
    if not facts.record.uuid:
        return False  # an unblock of a removed node wrote them: no machine did
    generation = facts.record.generation
    return generation == world.generation and token(generation, facts.mod) > through


def ready_nodes(world: ClusterState, but: str) -> list[str]:
    """Nodes that could do the fencing."""
    return [
        name
        for name in world.nodes()
        if name != but and (found := world.alive(name)) is not None and found.record and found.record.ready
    ]


def trouble(world: ClusterState, victim: str) -> str:
    """Why an open fence is not done, as far as the records tell."""
    able = ready_nodes(world, victim)
    if not able:
        return "no node is ready to carry out the fence"
    said = []
    for name in able:
        found = world.alive(name)
        why = found.record.fence_failures.get(victim) if found is not None and found.record else None
        if why:
            said.append(f"{name} reports: {why}")
    return "the storage does not confirm the block: " + "; ".join(said) if said else ""


BRAKE_HINT = "start a node, or run `metastack node fence NODE --yes --reason TEXT` for one that is switched off"
"""What to do while the brake holds."""


def brake_held(world: ClusterState) -> str:
    """Why nothing is fenced right now, in the words of a node; empty when no node says so."""
    found = (world.alive(name) for name in world.nodes())
    return next((one.record.brake for one in found if one and one.record and one.record.brake), "")


def brake_words(world: ClusterState, node: str) -> str:
    """What keeps a lost node from being fenced and what ends that; empty when nothing does."""
    if why := paused(world):
        return f"{why}: its VMs start elsewhere when that ends"
    if why := return_words(world, node):
        return why
    held = brake_held(world)
    if not held:
        return ""
    return (
        f"{held}: start {node}, or run `metastack node fence {node} --yes --reason TEXT` if it is switched off"
    )


def return_words(world: ClusterState, node: str) -> str:
    """What to say of a node whose host was shut down and is expected back; empty: it is not."""
    found = world.host_return(node)
    if found is None or world.alive(node) is not None:
        return ""
    if found.record is None:
        return expected(world, node)
    record = found.record
    at = f" at {record.at}" if record.at else ""
    wait = f"its VMs ({record.vms}) wait {record.ttl_s} s for its return, then other nodes start them"
    return f"its host was shut down{at} ({record.reason}): {wait}"


def briefly(world: ClusterState, node: str, text: str) -> str:
    """``text`` about a lost node, where something else in the same output has told all of the brake."""
    holder = "the maintenance" if paused(world) else "the brake"
    for told in filter(None, (brake_words(world, node), brake_held(world))):
        for mark in ":;":
            text = text.replace(f"{mark} {told}", f"; {holder} delays its fence")
    return text


def open_for_s(fence: Fence, now: datetime | None = None) -> float | None:
    """How long the open intent is open, by this machine's clock; None when none is or it does not say."""
    if not fence.intent or not fence.intent_at:
        return None
    try:
        since = datetime.fromisoformat(fence.intent_at)
        return max(0.0, ((now or datetime.now(UTC)) - since).total_seconds())
    except (ValueError, TypeError):
        return None


def fencer_words(fence: Fence) -> str:
    """The node that works on an open intent."""
    if fence.intent_by == fences.BY_HAND:
        return "its fence was requested by hand and waits for a node to carry it out"
    if fence.intent_by == fences.ANYONE:
        return "its fence waits for a node that reaches the storage"
    return f"{fence.intent_by} is fencing it"
