"""Nodes with silent storage: which they are, and the one transaction that fences a node which still lives.

Owns: what a node's announcements say of its storage, the decision to fence it, and that fence's guards.
Refuses: the block itself; once the intent is open it is a fence like any other (:mod:`.fences`).
Rule: nothing here compares clocks of two machines. A silence is numbered by the revision that first told of it,
a proof by a revision that its node had seen before the operation began.
"""

from __future__ import annotations

from typing import Final

import msgspec
from msgspec import Struct

from ..model import Fence, NodeAlive, Silenced
from ..plan import Idle
from ..state.cluster_state import ClusterState, Seen
from ..state.codec import encode
from ..state.keys import Keys
from ..transaction import Delete, Put, Transaction
from .fences import under_way
from .guards import Extra, OwnSession, in_session, puts_of, unchanged
from .maintenance import unpaused

WITNESSES: Final = 4
"""Number of nodes, first in rank, that tell what they proved: an announcement is an event for every agent."""


def is_ready(found: Seen[NodeAlive] | None) -> bool:
    """That node lives, and its session is ready."""
    return found is not None and found.record is not None and found.record.ready


def silent_at(found: Seen[NodeAlive] | None) -> int:
    """The revision at which that node first said that its storage is silent; 0: it is not, or nobody says."""
    if found is None or found.record is None or not is_ready(found):
        return 0
    return (found.record.storage_silent_at or found.mod) if found.record.storage_silent_since else 0


def silent_nodes(world: ClusterState) -> dict[str, int]:
    """Living nodes whose storage is silent, each with that revision."""
    return {name: at for name in world.nodes() if (at := silent_at(world.alive(name)))}


def proves(found: Seen[NodeAlive] | None, at: int) -> bool:
    """That node is ready, and an operation of its storage that began after this revision succeeded."""
    told = found.record if found is not None else None
    return told is not None and told.ready and told.storage_ok and told.storage_proved >= at


def too_many(world: ClusterState) -> str:
    """Why nobody is fenced for a silent storage: more are silent or gone than can be the nodes' own fault."""
    specs = {name: world.node_spec(name) for name in world.nodes() if world.facts(name) is not None}
    joined = [n for n, s in specs.items() if s is None or s.record is None or not s.record.cordoned]
    silent = [name for name in joined if silent_at(world.alive(name))]
    gone = [name for name in joined if world.alive(name) is None]
    if (len(silent) + len(gone)) * 100 <= world.config.brake_percent * len(joined):
        return ""
    lost = f", {len(gone)} are lost" if gone else ""
    return f"the storage of {len(silent)} of {len(joined)} nodes is silent{lost}: no node is fenced for it"


class SilenceSnapshot(Struct, frozen=True, kw_only=True):
    """Everything that bears on fencing a living node whose storage is silent."""

    session: int
    """Mine; 0: none."""
    ready: bool
    lost_s: int
    """``storage_lost_s``."""
    remote_fence: bool
    unfenced_claims: int
    fence: Seen[Fence] | None
    silent_for_s: float
    """Since I saw that very silence first, by my clock."""
    answers_me_for_s: float
    """Since when every operation of my own storage succeeded promptly, by my clock."""
    few_for_s: float
    """Since when only few nodes were silent or gone (``too_many``), by my clock."""
    witness: str
    """A ready node that proved the storage lately, after that silence; empty: none did."""
    too_many: str
    last: Seen[Silenced] | None
    last_open: bool
    """The fence of the node that was fenced so last is still open."""
    last_for_s: float
    """Since I saw that one first, by my clock."""
    rank: int | None
    rank_delay_s: float
    generation: int = 0


class FenceSilent(Struct, frozen=True):
    """Prove my own storage once more, then open the fence."""


def plan_silent(snapshot: SilenceSnapshot) -> Idle | FenceSilent:
    """Whether I should fence that living node now."""
    if not snapshot.session or not snapshot.ready:
        return Idle("not ready")
    if not snapshot.lost_s:
        return Idle("storage_lost_s is 0")
    if not snapshot.remote_fence:
        return Idle("this storage has no remote fence")
    if not snapshot.unfenced_claims:
        return Idle("it owns no VM")
    if snapshot.fence is not None and (
        snapshot.fence.record is None or under_way(snapshot.fence.record, snapshot.generation)
    ):
        return Idle("a fence of it is open, or cannot be read")
    if snapshot.last is not None and snapshot.last.record is None:
        return Idle(f"the record of the last such fence cannot be read: {snapshot.last.why}")
    # The shortest: when the storage returns to many at once, one is the first to notice, and one the last.
    watched_s = min(snapshot.silent_for_s, snapshot.answers_me_for_s, snapshot.few_for_s)
    if (wait_s := snapshot.lost_s - watched_s) > 0:
        return Idle("its storage may still answer", wait_s)
    if snapshot.too_many:
        return Idle(snapshot.too_many)
    if snapshot.last_open:
        return Idle("another node is being fenced for its silent storage")
    if snapshot.last is not None and (wait_s := snapshot.lost_s - snapshot.last_for_s) > 0:
        return Idle("another node was fenced for its silent storage just now", wait_s)
    if not snapshot.witness:
        return Idle("no other node has proved the storage since")
    if snapshot.rank is None:
        return Idle("other nodes fence")
    late_s = snapshot.lost_s + snapshot.rank * snapshot.rank_delay_s * 4
    if (wait_s := late_s - watched_s) > 0:
        return Idle(f"rank {snapshot.rank}: other nodes first", wait_s)
    return FenceSilent()


def intent_silent(
    keys: Keys,
    me: OwnSession,
    victim: str,
    alive: Seen[NodeAlive],
    witness: tuple[str, Seen[NodeAlive]],
    found: Seen[Fence] | None,
    last: Seen[Silenced] | None,
    extra: Extra = (),
    at: str = "",
) -> Transaction:
    """Open a fence of a node that lives, whose storage is silent while it answers others.

    Safety: the victim's alive key is *deleted here*. So ``through`` (the revision of this put) lies above every
    session that it had, the one of now included, and below every one that it will get. That is the argument of
    ``fences.intent``, which needs the key absent. It is as if etcd had revoked the lease at that very revision.
    What the victim sends from then on fails ``alive = S``; it declares no address behind the fencer, and it has
    to register, which waits for a living fencer. Were the key deleted before or after, the node could register
    in between, under a session that ``through`` does not reach. Or ``through`` would reach it while it is used.

    Comfort, each against a fence of a node that is well: the victim's announcement is the very one that told of
    the silence, so one that tells of an answer makes this fail. The same holds for the witness's. ``silenced``
    changes with every such fence, so of two that were decided at once one fails.
    """
    name, word = witness
    silent = silent_at(alive)
    if not silent or name == victim or not proves(word, silent):
        raise ValueError(f"nothing proves that the storage is silent for {victim} alone")
    old = found.ok if found is not None else Fence()
    if under_way(old, me.generation):
        raise ValueError(f"a fence of {victim} is open already")
    reason = f"its storage was silent since {alive.ok.storage_silent_since}, and answers {name}"
    new = msgspec.structs.replace(
        old,
        intent=True,
        intent_by=me.node,
        intent_session=me.session,
        intent_through=0,
        intent_at=at,
        intent_reason=reason,
        generation=me.generation,
    )
    mark = Silenced(node=victim, by=me.node, at=at, reason=reason)
    return Transaction(
        name="intent_silent",
        guards=(
            unchanged(keys.node_alive(victim), alive),
            unchanged(keys.fence(victim), found),
            unchanged(keys.node_alive(name), word),
            unchanged(keys.silenced(), last),
            in_session(keys, me),
            unpaused(keys),
        ),
        effects=(
            Delete(keys.node_alive(victim)),
            Put(keys.fence(victim), encode(new)),
            Put(keys.silenced(), encode(mark)),
            *puts_of(extra),
        ),
    )
