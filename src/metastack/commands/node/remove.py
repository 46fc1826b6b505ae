"""``node remove``: a node that will not come back leaves the list.

Owns: whether it may, and why not. Refuses: fencing it or lifting its block; both are commands of their own.
Rule: only a lost node without VMs whose last session is shut out of the storage is forgotten. Its fence stays.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress

from msgspec import Struct
from msgspec.structs import replace

from metastack.core.model import Credential, Fence, NodeFacts, NodeSpec, Removal
from metastack.core.protocol import fences, joining
from metastack.core.protocol.guards import absent
from metastack.core.protocol.node_removal import announce_removal
from metastack.core.protocol.node_removal import remove_node as removal
from metastack.core.state.cluster_state import ClusterState, Seen, seen
from metastack.core.state.fence_proof import UNBLOCKED
from metastack.core.state.keys import Keys, Kind
from metastack.core.transaction import Committed, Delete, Guard, Put, Transaction

from .. import names
from ..fence.views import returned
from ..problem import Problem, conflict, not_found
from ..reading import read_world
from ..request import Cluster, Plan, Request, commit, readable

MARK_S = 30
"""How long the mark stays of a command that died, seconds."""
REVOKED_S = 15.0
"""How long a running ``pki serve`` may take to take everything back."""
KINDS = (
    *(Kind.NODE_FACTS, Kind.NODE_ALIVE, Kind.NODE_SPEC, Kind.FENCE, Kind.CLAIM, Kind.GENERATION, Kind.CLUSTER),
    Kind.VM_SPEC,
)
"""What is looked at."""


class Removed(Struct, kw_only=True):
    """What came of it."""

    name: str
    deleted: bool = True
    blocked: list[str] = []
    """Addresses and clients that its fence blocked: they stay blocked until ``node unfence``, or until a node
    that has one of them joins."""
    credentials: str = "none"
    """``none``: it had none on record; ``pending``: `pki serve` takes them back; ``revoked``: it has."""
    pinned: list[str] = []
    """VMs that may run there only: they wait until they are unpinned, or a node of that name joins."""


async def check_removal(cluster: Cluster, node: str) -> None:
    """Raise Problem when the node must stay: said before anybody is asked for a yes."""
    names.name("node", node)
    world = await read_world(cluster, cluster.keys.prefixes(KINDS))
    if not _newcomer(world, node, await _credential(cluster, node)):
        _may_go(world, node)


async def remove_node(cluster: Cluster, request: Request, node: str) -> Removed:
    """Forget it. The caller has made sure of what no record can prove: that its host is gone for good."""
    names.name("node", node)
    names.reason(request.reason)
    keys, object, mark = cluster.keys, f"node {node}", Removal(by=request.by, at=request.at)

    async def look() -> Plan[Removed]:
        world = await read_world(cluster, keys.prefixes(KINDS))
        had = await _credential(cluster, node)
        if _newcomer(world, node, had):
            change = joining.remove_newcomer(keys, node, world.node_spec(node))
            return _plan(change, object, Removed(name=node, pinned=_pinned(world, node)), had, request, keys)
        facts, fence, _ = _may_go(world, node)
        lease = await cluster.store.grant(MARK_S)
        told = await cluster.commit(announce_removal(keys, node, facts, fence, mark, lease.id))
        entry = await cluster.store.get(keys.removal(node))
        # Safety: it is looked at once more behind the mark; what is seen now is what is forgotten.
        world = await read_world(cluster, keys.prefixes(KINDS))
        _, fence, spec = _may_go(world, node)
        if not isinstance(told, Committed) or entry is None:
            raise conflict(object, "changed during the check", f"check `metastack node show {node}` and retry")
        change = removal(keys, node, seen(Removal, entry), fence, spec)
        receipt = fence.ok.receipt
        lifted = receipt is None or receipt.method == UNBLOCKED
        answer = Removed(
            name=node,
            blocked=[] if receipt is None or lifted else [*receipt.addresses, *receipt.clients],
            pinned=_pinned(world, node),
        )
        return _plan(change, object, answer, had, request, keys)

    return await commit(cluster, request, look)


async def wait_revoked(cluster: Cluster, node: str, removed: Removed, timeout_s: float = REVOKED_S) -> Removed:
    """The answer once ``pki serve`` has taken everything back, or as it is after that time."""
    if removed.credentials != "pending":
        return removed
    key = cluster.keys.credential(node)
    with suppress(TimeoutError):
        async with asyncio.timeout(timeout_s):
            snapshot = await cluster.store.list(key)
            async with aclosing(cluster.store.watch(key, snapshot.revision)) as batches:
                while (found := await _credential(cluster, node)) is not None and found.ok.removing:
                    await anext(batches)
            return replace(removed, credentials="revoked")
    return removed


async def _credential(cluster: Cluster, node: str) -> Seen[Credential] | None:
    found = await cluster.read(Credential, cluster.keys.credential(node))
    if found is not None:
        readable(found, f"node {node}")
    return found


def _newcomer(world: ClusterState, node: str, had: Seen[Credential] | None) -> bool:
    """It joined, and its agent never had a session: there is nothing to fence."""
    given = had is not None and bool(had.ok.user)
    claimed = any(_names(claim, node) for _, claim in world.claims())
    return given and world.facts(node) is None and world.alive(node) is None and not claimed


def _plan(
    change: Transaction,
    object: str,
    answer: Removed,
    had: Seen[Credential] | None,
    request: Request,
    keys: Keys,
) -> Plan[Removed]:
    """The transaction that forgets it, with the mark that what it was given is to be taken back."""
    guards: tuple[Guard, ...] = (absent(keys.credential(answer.name)),)
    effects: tuple[Put | Delete, ...] = change.effects
    if had is not None:
        guard, mark = joining.take_back(keys, had, request.by, request.reason)
        guards = (guard,)
        if had.ok.user:
            effects, answer = (*effects, mark), replace(answer, credentials="pending")
    return Plan(
        guards=(*change.guards, *guards),
        effects=effects,
        what="node.remove",
        object=object,
        answer=answer,
    )


def _may_go(world: ClusterState, node: str) -> tuple[Seen[NodeFacts], Seen[Fence], Seen[NodeSpec] | None]:
    """Its records; raises Problem with the reason why it must stay."""
    object, facts, fence = f"node {node}", world.facts(node), world.fence(node)
    if world.alive(node) is not None:
        raise conflict(
            object,
            "is alive: only a lost node is removed",
            f"`metastack node drain {node} --wait`, then stop its agent or its host",
        )
    if facts is None:
        raise not_found(object, "`metastack node list` shows the nodes that joined")
    if held := sorted(str(vm) for vm, claim in world.claims() if _names(claim, node)):
        raise conflict(
            object,
            f"still has a claim on {', '.join(held[:3])}{' …' if len(held) > 3 else ''}",
            f"they start on other nodes once it is fenced: `metastack fence show {node}`, `metastack vm list`",
        )
    if broken := sorted(str(vm) for vm, claim in world.claims() if claim.record is None):
        raise conflict(object, f"the owner of VM {broken[0]} cannot be read", "check `metastack doctor`")
    record = readable(fence, object) if fence is not None else None
    if record is not None and fences.under_way(record, world.generation):
        raise conflict(object, "is being fenced right now", f"`metastack fence show {node}`")
    if fence is None or record is None or not record.through or returned(world, node):
        raise _not_fenced(node)
    if (why := _braked(world)) and (others := [n for n in world.nodes() if _waits(world, n) and n != node]):
        raise conflict(
            object,
            f"{why}: without this node on the list, {', '.join(others)} would be fenced at once",
            f'start {others[0]}, or fence it by name: `metastack node fence {others[0]} --reason "…"`',
        )
    return facts, fence, world.node_spec(node)


def _braked(world: ClusterState) -> str:
    """What a living node says of the brake."""
    alive = (world.alive(name) for name in world.nodes())
    return next((a.record.brake for a in alive if a is not None and a.record and a.record.brake), "")


def _waits(world: ClusterState, node: str) -> bool:
    """Lost, and not shut out of the storage."""
    return world.alive(node) is None and world.unfenced(node) > 0


def _names(claim: Seen, node: str) -> bool:  # type: ignore[type-arg]
    return claim.record is not None and claim.record.node == node


def _not_fenced(node: str) -> Problem:
    return conflict(
        f"node {node}",
        "its last session is not fenced: a host that lost only its etcd network may still write",
        f'fence it first: `metastack node fence {node} --yes --reason "…"`',
    )


def _pinned(world: ClusterState, node: str) -> list[str]:
    specs = ((vm, world.spec(vm)) for vm in world.vms())
    return sorted(str(vm) for vm, s in specs if s is not None and s.record and s.record.placement.node == node)
