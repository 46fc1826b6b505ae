"""The return of a host: a node that left in order keeps its VMs for a while, and no agent fences it.

Owns: why a node is not fenced, and the transactions that begin and end that.
Refuses: clocks. The record is leased, and its lease is nobody's to renew: etcd ends it at its time.
Rule: the record's absence is a guard of the intent (``not_expected``). When it is gone, the node is fenced like
any other that is lost, and its VMs are taken over by the same proof.

It protects no disk: a node that is expected back is not fenced, and no VM of it is taken over without a fence.
Missing it costs a start elsewhere that was not needed. A fence by hand does not ask for it.
"""

from __future__ import annotations

from ..model import HostReturn
from ..state.cluster_state import ClusterState, Seen
from ..state.codec import encode
from ..state.keys import Keys
from ..transaction import Delete, Guard, Put, Transaction
from .guards import Extra, OwnSession, absent, in_session, puts_of, unchanged


def expected(world: ClusterState, node: str) -> str:
    """Why a node is not fenced although it is gone; empty: nothing holds it back."""
    found = world.host_return(node)
    if found is None:
        return ""
    if found.record is None:
        return f"its host is expected back (the record cannot be read: {found.why})"
    return f"its host was shut down and is expected back: {found.record.reason}"


def not_expected(keys: Keys, node: str) -> Guard:
    """Nobody waits for that host, in this very transaction."""
    return absent(keys.host_return(node))


def leave(
    keys: Keys,
    me: OwnSession,
    found: Seen[HostReturn] | None,
    record: HostReturn,
    lease: int,
    extra: Extra = (),
) -> Transaction:
    """Have the others wait for this host.

    Safety: ``alive = S``, so no fence of this node is open or can open before this commits. Under ``lease``, of
    its own and renewed by nobody: a host that never returns is waited for once. ``register`` deletes it.
    """
    return Transaction(
        name="leave",
        guards=(unchanged(keys.host_return(me.node), found), in_session(keys, me)),
        effects=(Put(keys.host_return(me.node), encode(record), leased=True), *puts_of(extra)),
        lease=lease,
    )


def stay(keys: Keys, me: OwnSession, found: Seen[HostReturn]) -> Transaction:
    """The host stays up after all. Safety: my own departure, in my session, so nobody waits for another one."""
    return Transaction(
        name="stay",
        guards=(unchanged(keys.host_return(me.node), found), in_session(keys, me)),
        effects=(Delete(keys.host_return(me.node)),),
    )


def end(keys: Keys, found: Seen[HostReturn], node: str) -> Transaction:
    """Wait no longer. Safety: for the departure that was looked at, and for no later one."""
    return Transaction(
        name="end_return",
        guards=(unchanged(keys.host_return(node), found),),
        effects=(Delete(keys.host_return(node)),),
    )
