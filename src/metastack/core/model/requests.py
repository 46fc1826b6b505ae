"""Requests to the node that owns a VM, where only a node may act on the storage.

Rule: a request is of one claim and one client: whoever holds another claim by then refuses it.
"""

from __future__ import annotations

from .numbers import Record


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
