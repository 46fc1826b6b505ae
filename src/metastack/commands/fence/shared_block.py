"""Whose block it is that stands at an address which several nodes have, or had: asked before a person lifts it.

Owns: that question. Refuses: lifting anything. Rule: a node that was removed has what its fence blocked, until
another node declares the address or is fenced with it.
"""

from __future__ import annotations

from metastack.core.model import Fencing
from metastack.core.protocol import fences
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.fence_proof import UNBLOCKED
from metastack.core.state.keys import Kind

from ..problem import conflict
from .views import returned


def refuse_shared(world: ClusterState, node: str, addresses: tuple[str, ...]) -> None:
    """Raise Problem when another node has one of them: its guests, that are shut out, could write again."""
    for other in sorted({*world.nodes(), *(names[0] for names in world.names(Kind.FENCE))} - {node}):
        if not (shared := sorted(set(addresses) & _has(world, node, other))):
            continue
        known = world.facts(node) is not None
        raise conflict(
            f"node {node}",
            f"node {other} also has {', '.join(shared)}: the block may be that node's, whose guests could "
            "write again",
            (f"to remove {node}: `metastack node remove {node}`; " if known else "")
            + f"{other} lifts its block when it returns; if it never returns: "
            + f'`metastack node unfence {other} --reason "…"`',
        )


def _has(world: ClusterState, node: str, other: str) -> set[str]:
    """Addresses at which a block may be of that other node."""
    facts, fence = world.facts(other), world.fence(other)
    record = fence.record if fence is not None else None
    if (facts is not None and facts.record is None) or (fence is not None and record is None):
        raise conflict(
            f"node {node}",
            f"the addresses of node {other} cannot be read",
            "upgrade this program, or check `metastack doctor`",
        )
    found: set[str] = set()
    # Where single clients are blocked, nodes may share an address; an open fence may be of before that.
    if facts is not None and facts.record is not None:
        by_address = world.config.fencing is Fencing.ADDRESS
        if by_address or (record is not None and fences.under_way(record, world.generation)):
            found |= set(facts.record.storage_addresses)
    receipt = record.receipt if record is not None else None
    if record is None or receipt is None or receipt.method == UNBLOCKED or returned(world, other):
        return found
    # Of two that were removed the later one had the address last: it lifted the earlier one's block.
    if facts is not None or record.through > world.fenced_through(node):
        found |= set(receipt.addresses)
    return found
