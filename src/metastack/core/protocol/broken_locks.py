"""The two transactions of break-lock: a person's request, and the answer of the claim's owner.

Owns: what is compared and written.
Refuses: deciding whether the client may be shut out (:mod:`metastack.core.boot_gate`).
Rule: only the claim's holder acts, in the session of its claim: management users may not block anybody.
"""

from __future__ import annotations

from ..model import BreakLock, Claim, Event, VmId
from ..state.cluster_state import Seen
from ..state.codec import encode
from ..state.keys import Keys
from ..transaction import Delete, Put, Transaction
from .guards import OwnSession, in_session, unchanged


def ask(keys: Keys, vm: VmId, held: Seen[Claim], request: BreakLock) -> Transaction:
    """Ask the holder of that very claim. A request of before is replaced.

    Safety: a claim that moved meanwhile has another holder, which has asked the disk itself.
    """
    return Transaction(
        name="vm.break-lock",
        guards=(unchanged(keys.claim(vm), held),),
        effects=(Put(keys.break_lock(vm), encode(request)),),
    )


def answer(
    keys: Keys, me: OwnSession, vm: VmId, held: Seen[Claim], found: Seen[BreakLock], key: str, event: Event
) -> Transaction:
    """Say what came of it; the request goes.

    Safety: the request is the one that was carried out, and the claim is mine still. The client was shut out
    before this, which is true whoever holds the claim.
    """
    return Transaction(
        name="break_lock",
        guards=(unchanged(keys.break_lock(vm), found), unchanged(keys.claim(vm), held), in_session(keys, me)),
        effects=(Delete(keys.break_lock(vm)), Put(key, encode(event))),
    )


def answered_at(keys: Keys, request: BreakLock) -> str:
    """The key of the event that answers a request: known to the command that asked."""
    return keys.event(request.at_ms, f"{request.request_id}-answer")
