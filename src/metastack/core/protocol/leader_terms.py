"""Terms: the transactions of a scheduler, each with the argument for its guards.

Owns: how one of several schedulers becomes the leader, and how the leader writes hints.
Refuses: anything that a VM's safety would hang on. A hint is advice: nodes look for themselves whether the VM
fits, and choose alone when there is none.
Rule: a term is the create revision of the leader's key, and every hint is written under the lease of that key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from msgspec import Struct

from ..model import Hint, Leader, VmId
from ..state.codec import encode
from ..state.keys import Keys
from ..transaction import Delete, Guard, Put, Transaction
from .guards import absent


class LeaderTerm(Struct, frozen=True, kw_only=True):
    """One scheduler's time as the leader."""

    revision: int
    """Create revision of the leader's key."""
    lease: int


def stand(keys: Keys, leader: Leader, lease: int) -> Transaction:
    """Become the leader, if there is none.

    Safety: the key must be absent, since a put over a living key keeps its create revision: two schedulers
    would have the same term.
    """
    key = keys.leader()
    return Transaction(
        name="stand", guards=(absent(key),), effects=(Put(key, encode(leader), leased=True),), lease=lease
    )


def advise(keys: Keys, term: LeaderTerm, told: Mapping[VmId, Hint], withdrawn: Iterable[VmId]) -> Transaction:
    """Write and withdraw hints.

    Safety: guarded by the term, so a scheduler that was deposed and does not know it yet writes nothing; and
    leased with the leader's key, so whatever it wrote ends with that lease.
    """
    return Transaction(
        name="advise",
        guards=(Guard(keys.leader(), "create", term.revision),),
        effects=(
            *(Put(keys.hint(vm), encode(hint), leased=True) for vm, hint in sorted(told.items())),
            *(Delete(keys.hint(vm)) for vm in sorted(withdrawn)),
        ),
        lease=term.lease,
    )
