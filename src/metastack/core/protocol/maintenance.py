"""Maintenance: while a person's record is there, no node is fenced, no VM is taken over and none is moved.

Owns: why agents pause, and the transactions that begin and end it.
Refuses: clocks. The record is leased, and its lease is nobody's to renew: etcd ends it at its time.
Rule: the record's absence is a guard of every transaction that it forbids (``unpaused``). So nothing that was
decided before it began is committed after, whatever an agent has heard. What no transaction decides (a move, a
VM given back) each node holds back by what it knows.

It protects no disk: fences and takeovers are safe with it or without. Missing it costs a needless restart.
"""

from __future__ import annotations

from ..model import Maintenance
from ..state.cluster_state import ClusterState, Seen
from ..state.codec import encode
from ..state.keys import Keys
from ..transaction import Delete, Guard, Put, Transaction
from .guards import absent, unchanged


def paused(world: ClusterState) -> str:
    """Why nothing is fenced, taken over or moved; empty: nothing holds it back."""
    found = world.maintenance()
    if found is None:
        return ""
    if found.record is None:
        return f"the cluster is under maintenance (its record cannot be read: {found.why})"
    return f"the cluster is under maintenance: {found.record.reason} ({found.record.by})"


def unpaused(keys: Keys) -> Guard:
    """No maintenance, in this very transaction."""
    return absent(keys.maintenance())


def begin(keys: Keys, found: Seen[Maintenance] | None, record: Maintenance, lease: int) -> Transaction:
    """Begin it, or replace the one that is on.

    Safety: under ``lease``, which nobody renews: a person who forgets it pauses the cluster for its time only.
    A put over a record of an earlier lease moves it to this one. ``found`` unchanged: of two people one looks
    again.
    """
    return Transaction(
        name="begin_maintenance",
        guards=(unchanged(keys.maintenance(), found),),
        effects=(Put(keys.maintenance(), encode(record), leased=True),),
        lease=lease,
    )


def end(keys: Keys, found: Seen[Maintenance]) -> Transaction:
    """End it early. Safety: the one that was looked at, and none that another person began since."""
    return Transaction(
        name="end_maintenance",
        guards=(unchanged(keys.maintenance(), found),),
        effects=(Delete(keys.maintenance()),),
    )
