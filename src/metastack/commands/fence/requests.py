"""Fences as people see and ask for them: receipts, a fence by hand, an unblock by hand.

Owns: the view of ``fences/<node>``, and what ``node fence`` and ``node unfence`` write.
Refuses: blocking anything itself. A person opens an intent; an agent blocks, confirms and writes *done*.
Rule: a living node is never fenced by hand, and never unfenced either: it lifts its own block.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from metastack.core.model import Fence, FenceReceipt, NodeFacts
from metastack.core.protocol import fences
from metastack.core.state.cluster_state import ClusterState, Seen
from metastack.core.state.fence_proof import UNBLOCKED
from metastack.core.state.keys import Kind
from metastack.ports import Denied, Refused, Storage, Unavailable

from .. import names
from ..problem import Code, Problem, conflict, from_storage, not_found
from ..reading import StateFollower, follow, read_world
from ..request import Cluster, Plan, Request, Unchanged, commit, readable
from .shared_block import refuse_shared
from .views import FenceView, fence_view, ready_nodes, unfenced

FENCES = (
    *(Kind.FENCE, Kind.NODE_ALIVE, Kind.NODE_FACTS, Kind.CLAIM, Kind.GENERATION, Kind.CLUSTER),
    Kind.STORAGE,
)
"""What fence views are made of."""
Progress = Callable[[str], None]


# ---------------------------------------------------------------------------------------------------------
# by hand


def check_reason(node: str, reason: str, what: str) -> str:
    """Raise Problem for a bad name or reason, before a person is asked anything; what errors call the node."""
    names.name("node", node)
    names.needed_reason(reason, f"node {node}", what)
    return f"node {node}"


async def fence_node(cluster: Cluster, request: Request, node: str) -> int:
    """Open a fence of a lost node; the mass brake does not hold it. Returns the last ``through`` before it.

    A fence that is open already is left to its fencer.
    """
    object = check_reason(node, request.reason, "a fence by hand")

    async def look() -> Plan[int] | Unchanged[int]:
        world = await read_world(cluster, cluster.keys.prefixes(FENCES))
        _may_be_fenced(world, node)
        found = world.fence(node)
        fence = readable(found, object) if found is not None else Fence()
        if fences.under_way(fence, world.generation):
            return Unchanged(fence.through)
        change = fences.intent_by_hand(cluster.keys, node, found, world.generation, request.at, request.reason)
        return Plan(
            guards=change.guards,
            effects=change.effects,
            what="node.fence",
            object=object,
            message="asked for by hand",
            answer=fence.through,
        )

    return await commit(cluster, request, look)


async def check_fence(cluster: Cluster, node: str) -> None:
    """Raise Problem when this node cannot be fenced by hand now: said before anybody is asked for a yes."""
    names.name("node", node)
    _may_be_fenced(await read_world(cluster, cluster.keys.prefixes(FENCES)), node)


def _may_be_fenced(world: ClusterState, node: str) -> None:
    object = f"node {node}"
    if node not in world.nodes() and world.fence(node) is None:
        raise not_found(object, "`metastack node list` shows the nodes that joined")
    if world.alive(node) is not None:
        raise conflict(
            object,
            "is alive: only a lost node is fenced",
            f"`metastack node cordon {node}` keeps new VMs away; to fence it, stop the host or its agent "
            "and wait for its lease to end",
        )


async def check_unfence(cluster: Cluster, node: str) -> None:
    """Raise Problem when the fence of this node must stay: said before anybody is asked for a yes."""
    names.name("node", node)
    _may_be_lifted(await read_world(cluster, cluster.keys.prefixes(FENCES)), node)


async def wait_fenced(
    cluster: Cluster, node: str, before: int, timeout_s: float, progress: Progress | None = None
) -> FenceView:
    """Wait until a fence later than ``before`` is done; raises Problem with what stands in the way."""
    last = ""
    follower: StateFollower | None = None
    try:
        async with asyncio.timeout(timeout_s), follow(cluster, cluster.keys.prefixes(FENCES)) as follower:
            while True:
                view = fence_view(follower.world, node)
                if view is not None and view.state != "open" and (view.fenced_through or 0) > before:
                    return view
                if view is None or view.state != "open":
                    raise _ended(follower.world, node)
                now = _told(follower.world, node, view)
                if now != last and progress is not None:
                    progress(now)
                last = now
                await follower.changed()
    except TimeoutError:
        why = last or "no node reports on it"
        raise Problem(
            Code.TIMEOUT,
            f"node {node}",
            f"is not fenced after {timeout_s:g} s: {why}",
            f"the fence continues by itself; `metastack fence show {node}` shows it",
        ) from None


def _ended(world: ClusterState, node: str) -> Problem:
    if world.alive(node) is not None:
        return conflict(
            f"node {node}",
            "returned by itself before it was blocked; its VMs keep running",
            f"`metastack node show {node}`",
        )
    return conflict(
        f"node {node}",
        "the fence was cancelled because the node returned",
        f"check `metastack node show {node}` and retry",
    )


def _told(world: ClusterState, node: str, view: FenceView) -> str:
    if view.trouble:
        return view.trouble
    if view.intent_by in (fences.BY_HAND, fences.ANYONE):
        able = ready_nodes(world, node)
        return f"waits for {'one of ' if len(able) > 1 else ''}{', '.join(able)} to carry out the fence"
    return f"{view.intent_by} is blocking it in the storage"


async def unfence_node(cluster: Cluster, request: Request, node: str, storage: Storage) -> FenceView:
    """Lift the blocks of a node that will not come back by itself, and forget its storage addresses.

    The caller has made sure of what no record can prove: that no guest of that host lives.

    Safety: the order is record, unblock, record again over the first one's revision. Between the first record
    and the unblock the node may have come back, lifted its own block and been fenced again; then the second
    record fails, and what this unblocked is blocked again. Nothing was written meanwhile by an old guest of
    that host unless the person was wrong about it.

    Another node may have one of the addresses: if this one was removed, or both declared it. Then the block is
    that node's, too, and stays. The first record has this node hold its addresses, removed or not; a node
    that declares one later sees that and boots nothing. A node that declared one before is seen by the look
    behind it.
    """
    object = check_reason(node, request.reason, "lifting a fence")

    async def first() -> Plan[Fence]:
        world = await read_world(cluster, cluster.keys.prefixes(FENCES))
        facts, found = _may_be_lifted(world, node), world.fence(node)
        before = found.ok if found is not None else Fence()
        receipt = _about_to_lift(before.receipt, request)
        change = fences.lifted(cluster.keys, node, found, world.facts(node), receipt, facts, world.generation)
        return Plan(
            guards=change.guards,
            effects=change.effects,
            what="node.unfence",
            object=object,
            message=f"asked for by hand: {' '.join(facts.storage_addresses)}",
            answer=before,
        )

    before = await commit(cluster, request, first, step="1")
    world = await read_world(cluster, cluster.keys.prefixes(FENCES))
    mark, held = world.fence(node), world.facts(node)
    try:
        addresses = _may_be_lifted(world, node).storage_addresses
        if held is None or mark is None or mark.ok.through != before.through:
            raise conflict(
                object,
                "changed during the check; no block was lifted",
                f"check `metastack node show {node}` and retry",
            )
    except Problem:
        await _give_back(cluster, node, mark, held, before)
        raise
    try:
        blocked = await storage.blocked(addresses)
        if blocked:
            await storage.unfence(blocked)
    except Denied as error:
        raise Problem(
            Code.DENIED,
            object,
            str(error),
            "a management user may not lift blocks, by design: use one that may, "
            "such as --user admin --keyring /etc/ceph/ceph.client.admin.keyring",
        ) from error
    except (Unavailable, Refused) as error:
        raise from_storage(error, object) from error

    async def second() -> Plan[None]:
        if unfenced(await read_world(cluster, cluster.keys.prefixes(FENCES)), node):
            raise conflict(object, "claimed VMs meanwhile", f"check `metastack node show {node}`")
        receipt = FenceReceipt(
            at=request.at,
            by=request.by,
            method=UNBLOCKED,
            addresses=addresses,
            verified="read back: not blocked",
            reason=request.reason,
        )
        # Another node may have the addresses now; should this one return, it declares its own again.
        gone = None
        if not _was_removed(held.ok):
            gone = NodeFacts(name=node, uuid=held.ok.uuid, joined=held.ok.joined)
        change = fences.lifted(cluster.keys, node, mark, held, receipt, gone)
        return Plan(
            guards=change.guards,
            effects=change.effects,
            what="node.unfenced",
            object=object,
            message=" ".join(addresses),
            answer=None,
        )

    try:
        await commit(cluster, request, second, step="2")
    except Problem:
        if blocked:
            await storage.fence(blocked, request.by, f"{node} returned while its fence was lifted by hand")
        raise conflict(
            object,
            "returned or was fenced again meanwhile; it is blocked again",
            f"check `metastack node show {node}`",
        ) from None
    world = await read_world(cluster, cluster.keys.prefixes(FENCES))
    view = fence_view(world, node)
    assert view is not None
    return view


def _was_removed(facts: NodeFacts) -> bool:
    """Only an unblock of a removed node writes facts without the identity of a machine."""
    return not facts.uuid


async def _give_back(
    cluster: Cluster, node: str, mark: Seen[Fence] | None, held: Seen[NodeFacts] | None, before: Fence
) -> None:
    """Nothing is lifted: a node that was removed leaves the list again, and its receipt is as it was."""
    if mark is None or held is None or mark.record is None or held.record is None or before.receipt is None:
        return
    if _was_removed(held.record) and mark.record.through == before.through and not mark.record.intent:
        await cluster.commit(fences.lifted(cluster.keys, node, mark, held, before.receipt, None))


def _about_to_lift(before: FenceReceipt | None, request: Request) -> FenceReceipt:
    """The receipt that stands while the block is being lifted: still that of the fence."""
    mark = "; to be lifted by "
    if before is None:
        return FenceReceipt(
            at=request.at, by=request.by, method="none", verified=f"never fenced{mark}{request.by}"
        )
    return replace(before, verified=before.verified.split(mark, maxsplit=1)[0] + mark + request.by)


def _may_be_lifted(world: ClusterState, node: str) -> NodeFacts:
    """The node's facts; raises Problem when its fence must stay."""
    object, fence, facts = f"node {node}", world.fence(node), world.facts(node)
    receipt = fence.record.receipt if fence is not None and fence.record is not None else None
    if facts is None and receipt is None:
        raise not_found(object, "`metastack fence list` shows the nodes that were fenced")
    if world.alive(node) is not None:
        raise conflict(object, "is alive: it lifts its own block when it rejoins", "no action is needed")
    if fence is not None and fences.under_way(readable(fence, object), world.generation):
        raise conflict(object, "is being fenced right now", f"`metastack fence show {node}`")
    if left := unfenced(world, node):
        raise conflict(
            object,
            f"owns {', '.join(left[:3])}{' …' if len(left) > 3 else ''}, and its session is not fenced",
            f'fence it first: `metastack node fence {node} --yes --reason "…"`',
        )
    if any(held.record is not None and held.record.node == node for _, held in world.claims()):
        raise conflict(
            object, "its VMs have not been taken over yet", "wait until they are: `metastack vm list`"
        )
    if facts is None and receipt is not None:
        # It was removed: what stays blocked is in the receipt.
        known = NodeFacts(name=node, uuid="", storage_addresses=receipt.addresses)
    else:
        assert facts is not None
        known = readable(facts, object)
    refuse_shared(world, node, known.storage_addresses)
    return known
