"""Requests of a person to the agents: to break a lock that only a node may break, and to fence nothing.

Rule: a broken lock is of one claim and one client: whoever holds another claim by then refuses it.
"""

from __future__ import annotations

from .numbers import Record


class Maintenance(Record, frozen=True, kw_only=True):
    """``maintenance``: under a lease of its own. While it is there, agents fence no node, take no VM over and
    move none. Its presence decides, not its content: one that cannot be read holds too."""

    by: str
    reason: str
    at: str = ""
    """When it began, RFC 3339 UTC; for people only."""
    ttl_s: int = 0
    """Life of its lease. etcd counts it, so no clock of a node or person matters."""


class BreakLock(Record, frozen=True, kw_only=True):
    """``requests/break-lock/<project>/<vm>``: shut this client out and break its lock on the VM's disk."""

    uuid: str
    """The VM's."""
    claim: int
    """Revision of the claim whose holder is asked."""
    client: str
    """The client that the person saw in the way."""
    at_ms: int
    """With ``request_id`` the key of the event that answers it."""
    by: str = ""
    reason: str = ""
    request_id: str = ""
