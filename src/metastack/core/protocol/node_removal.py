"""Forgetting a node that is gone for good: the transaction, with the argument for its guards.

Owns: what is compared and written by ``node remove``, in two steps. Refuses: deciding whether a node may go
(:mod:`metastack.commands.node.remove`), and lifting its block: that stays in the storage.
Rule: its fence is never removed. By it a node that returns knows that this etcd knew it, and nothing that the
fence reached can be anything but the past.
"""

from __future__ import annotations

from ..model import Fence, NodeFacts, NodeSpec, Removal
from ..state.cluster_state import Seen
from ..state.codec import encode
from ..state.keys import Keys
from ..transaction import Delete, Put, Transaction
from .guards import absent, unchanged


def announce_removal(
    keys: Keys, node: str, facts: Seen[NodeFacts], fence: Seen[Fence], mark: Removal, lease: int
) -> Transaction:
    """Say that the node is about to be forgotten, before it is looked at for the last time.

    Safety: it is lost in this transaction, and fenced. Its next registration deletes the mark.
    """
    return Transaction(
        name="announce_removal",
        guards=(
            absent(keys.node_alive(node)),
            unchanged(keys.node_facts(node), facts),
            unchanged(keys.fence(node), fence),
        ),
        effects=(Put(keys.removal(node), encode(mark), leased=True),),
        lease=lease,
    )


def remove_node(
    keys: Keys,
    node: str,
    mark: Seen[Removal],
    fence: Seen[Fence],
    spec: Seen[NodeSpec] | None,
) -> Transaction:
    """Forget what a lost, fenced node declared, and what people said of it.

    Safety: the mark is as it was put, so the node registered no session since; it was lost when the mark was
    put, so no session of before can commit anything (``alive = S``). The caller has seen after that that no
    claim names it: then none does, and none will before its next registration. That comes later than this, or
    the mark is gone: the node begins with a new record, written before it unblocks anything. The addresses that
    are forgotten here are of no session that a fence does not reach.

    The fence is put once more, as it is. A fencer that is about to open, take over or close it would find no
    addresses, so its transaction fails. So does a registration that was decided before.
    """
    return Transaction(
        name="remove_node",
        guards=(
            unchanged(keys.removal(node), mark),
            unchanged(keys.fence(node), fence),
            unchanged(keys.node_spec(node), spec),
        ),
        effects=(
            Put(keys.fence(node), encode(fence.ok)),
            Delete(keys.node_facts(node)),
            Delete(keys.node_spec(node)),
            Delete(keys.refusal(node)),
            Delete(keys.removal(node)),
        ),
    )
