"""Every guarded transaction of a fence, each with the argument for its guards.

Owns: what is compared and written when a fence is opened, given up, withdrawn, taken over, done or lifted.
Refuses: deciding *when* (:func:`metastack.core.plan.plan_fence`), and the block itself.
Rule: ``through`` only grows, and only by *done*, which closes the very intent after which the block was made.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

from ..model import Fence, FenceReceipt, NodeFacts, resolved_intent
from ..state.cluster_state import Seen
from ..state.codec import encode
from ..state.keys import Keys
from ..transaction import Delete, Put, Transaction
from .guards import Extra, OwnSession, absent, in_session, puts_of, unchanged
from .host_return import not_expected
from .maintenance import unpaused

BY_HAND: Final = "(by hand)"
"""Fencer of an intent that a person opened. No node name, so never alive: any ready agent takes it over."""
ANYONE: Final = "(anyone)"
"""Fencer of an intent that a node gave up, because it could not reach the storage. Never alive either."""
NOBODY: Final = ("", BY_HAND, ANYONE)
"""No node is at it, nor was one that died: there is nobody to wait for."""

_NO_INTENT: Final[dict[str, Any]] = {
    "intent": False,
    "intent_by": "",
    "intent_session": 0,
    "intent_through": 0,
    "intent_at": "",
    "intent_reason": "",
}


def under_way(fence: Fence, generation: int) -> bool:
    """Somebody is, or should be, at work on it. An intent of before a restore of etcd is nobody's any more: no
    session of then can finish it, and whether the node is dead has to be found out again."""
    return fence.intent and fence.generation >= generation


def closed(fence: Fence) -> Fence:
    """The record without its open intent."""
    return msgspec.structs.replace(fence, **_NO_INTENT)


def intent(
    keys: Keys, me: OwnSession, victim: str, found: Seen[Fence] | None, extra: Extra = (), at: str = ""
) -> Transaction:
    """Open a fence of another node.

    Safety: its alive key is absent *in this transaction*, so ``through`` (the revision of this put) lies
    above every session it had and below every one it will get. No maintenance, and its host is not expected
    back, in this transaction too.
    """
    old = found.ok if found is not None else Fence()
    new = msgspec.structs.replace(
        old,
        intent=True,
        intent_by=me.node,
        intent_session=me.session,
        intent_through=0,
        intent_at=at,
        intent_reason="",
        generation=me.generation,
    )
    return Transaction(
        name="intent",
        guards=(
            absent(keys.node_alive(victim)),
            unchanged(keys.fence(victim), found),
            in_session(keys, me),
            unpaused(keys),
            not_expected(keys, victim),
        ),
        effects=(Put(keys.fence(victim), encode(new)), *puts_of(extra)),
    )


def intent_by_hand(
    keys: Keys, victim: str, found: Seen[Fence] | None, generation: int, at: str, reason: str
) -> Transaction:
    """Open a fence because a person knows that the node is gone; the brake does not hold it back.

    Safety: as with ``intent``, the victim's alive key is absent in this transaction, so ``through`` lies above
    every session it had and below every one it will get. No ``alive = S``: a person has no session, and needs
    none, since an intent blocks nothing. The block is made by an agent that takes it over in its own session.
    The race with the victim's return: its ``register`` cancels an intent whose fencer is not alive, and this
    one's never is. Both ``register`` and ``take_over_intent`` compare the fence's revision and change it, so
    exactly one of them commits. If the victim is first, nothing was blocked and its guests run on: what the
    person knew was wrong, and they are told. If an agent is first, the intent has a living fencer, for which
    the victim waits; then it finds itself fenced and takes the whole way back.
    """
    old = found.ok if found is not None else Fence()
    if under_way(old, generation):
        raise ValueError(f"a fence of {victim} is open already")
    new = msgspec.structs.replace(
        old,
        intent=True,
        intent_by=BY_HAND,
        intent_session=0,
        intent_through=0,
        intent_at=at,
        intent_reason=reason,
        generation=generation,
    )
    return Transaction(
        name="intent_by_hand",
        guards=(absent(keys.node_alive(victim)), unchanged(keys.fence(victim), found)),
        effects=(Put(keys.fence(victim), encode(new)),),
    )


def pass_intent(keys: Keys, me: OwnSession, victim: str, mine: Seen[Fence], extra: Extra = ()) -> Transaction:
    """Give up my open fence, for others to take over: the storage refuses me, or I cannot reach it.

    Safety: ``fences/victim`` is still my intent, whose ``through`` is kept. What I may have blocked without
    hearing of it stays blocked, which is the safe side; I never write *done* for it, since *done* compares the
    revision that this changes. A victim that returns now cancels the intent, and lifts such a block itself.
    """
    new = msgspec.structs.replace(
        mine.ok, intent_by=ANYONE, intent_session=0, intent_through=resolved_intent(mine.ok, mine.mod)
    )
    return Transaction(
        name="pass_intent",
        guards=(unchanged(keys.fence(victim), mine), in_session(keys, me)),
        effects=(Put(keys.fence(victim), encode(new)), *puts_of(extra)),
    )


def withdraw_intent(keys: Keys, me: OwnSession, victim: str, mine: Seen[Fence]) -> Transaction:
    """Close my fence before I asked the storage for anything: the brake engaged while it was on its way.

    Safety: ``fences/victim`` is the very put that opened it, so nobody took it over and nobody blocked for it,
    and ``through`` of the last *done* stays. A late block of mine cannot be: the fencer asks after this look.
    """
    old = mine.ok
    if old.intent_through or (old.intent_by, old.intent_session) != (me.node, me.session):
        raise ValueError(f"the fence of {victim} was not opened in this session")
    return Transaction(
        name="withdraw_intent",
        guards=(unchanged(keys.fence(victim), mine), in_session(keys, me)),
        effects=(Put(keys.fence(victim), encode(closed(old))),),
    )


def fence_again(
    keys: Keys, me: OwnSession, victim: str, found: Seen[Fence] | None, at: str, why: str, extra: Extra = ()
) -> Transaction:
    """Open a fence of a node whose last one does not hold any more: somebody lifted its block by hand.

    Safety: as with ``intent``, its alive key is absent in this transaction, so ``through`` lies above every
    session it had and below all to come. Nobody's, so that any ready node takes it up, also when the brake
    holds: it loses no VM by this that it had not lost before.
    """
    old = found.ok if found is not None else Fence()
    new = msgspec.structs.replace(
        closed(old), intent=True, intent_by=ANYONE, intent_at=at, intent_reason=why, generation=me.generation
    )
    return Transaction(
        name="fence_again",
        guards=(absent(keys.node_alive(victim)), unchanged(keys.fence(victim), found), in_session(keys, me)),
        effects=(Put(keys.fence(victim), encode(new)), *puts_of(extra)),
    )


def take_over_intent(
    keys: Keys, me: OwnSession, victim: str, found: Seen[Fence], extra: Extra = ()
) -> Transaction:
    """Finish what a dead fencer began; also how a fencer goes on with its own after a restart.

    Safety: its ``through`` is kept, not raised: the victim may be registered again by now. The guard on the
    fencer's alive key is mine to give only when it is another node.
    """
    guards = [unchanged(keys.fence(victim), found), in_session(keys, me)]
    if found.ok.intent_by != me.node:
        guards.append(absent(keys.node_alive(found.ok.intent_by)))
    new = msgspec.structs.replace(
        found.ok,
        intent_by=me.node,
        intent_session=me.session,
        intent_through=resolved_intent(found.ok, found.mod),
    )
    return Transaction(
        name="take_over_intent",
        guards=tuple(guards),
        effects=(Put(keys.fence(victim), encode(new)), *puts_of(extra)),
    )


def done(keys: Keys, victim: str, mine: Seen[Fence], receipt: FenceReceipt, extra: Extra = ()) -> Transaction:
    """Close my fence after the storage confirmed the block.

    Safety: ``fences/victim`` is still my intent. Not ``alive = S``: a block that landed is true even if this
    node's session ended.
    """
    new = Fence(
        through=max(mine.ok.through, resolved_intent(mine.ok, mine.mod)),
        generation=mine.ok.generation,
        receipt=receipt,
    )
    return Transaction(
        name="done",
        guards=(unchanged(keys.fence(victim), mine),),
        effects=(Put(keys.fence(victim), encode(new)), *puts_of(extra)),
    )


def lifted(
    keys: Keys,
    node: str,
    found: Seen[Fence] | None,
    facts: Seen[NodeFacts] | None,
    receipt: FenceReceipt,
    declared: NodeFacts | None,
    generation: int = 0,
) -> Transaction:
    """Record that a person lifts, or lifted, the block of a node that will not come back by itself.

    Safety: the node is not alive, no fence of it is open, and the records are those that were looked at.
    ``through`` stays: no session up to it may ever act again. What no transaction can prove is that no QEMU of
    that node lives; the person vouches for it. Written before the block is lifted and again after it, the
    second time over the first one's revision: a fence that was done in between makes it fail, and then the
    addresses are blocked once more (:mod:`metastack.commands.fence`). So does a declaration: who is back,
    and is lost, keeps the addresses that the next fence reads.

    ``declared`` is what the node's facts are from here on; none: it has none. The first time they hold the
    addresses, also for a node that was removed: another node that declares one of them later is not ready.
    The caller looks for those who declared one before.
    """
    old = found.ok if found is not None else Fence()
    if under_way(old, generation):
        raise ValueError(f"a fence of {node} is open")
    key = keys.node_facts(node)
    effects: list[Put | Delete] = [
        Put(keys.fence(node), encode(msgspec.structs.replace(closed(old), receipt=receipt)))
    ]
    # Put once more as they are, they would look like a declaration of a later session.
    if declared is not None and (facts is None or facts.record != declared):
        effects.append(Put(key, encode(declared)))
    elif declared is None and facts is not None:
        effects.append(Delete(key))
    return Transaction(
        name="lifted",
        guards=(absent(keys.node_alive(node)), unchanged(keys.fence(node), found), unchanged(key, facts)),
        effects=tuple(effects),
    )
