"""Requests to the agents: of a person, to break a lock or to fence nothing; of a node, to wait for its host.

Rule: a broken lock is of one claim and one client: whoever holds another claim by then refuses it.
"""

from __future__ import annotations

from msgspec import field

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


class ClusterShutdown(Record, frozen=True, kw_only=True):
    """``shutdown``: under a lease of its own. While it is there, every host that it names stops its guests and
    keeps its VMs."""

    by: str
    reason: str
    boots: dict[str, str] = field(default_factory=dict)
    """Boot of each host that was up: one that has booted since is through with it."""
    at: str = ""
    """When it began, RFC 3339 UTC; for people only."""
    ttl_s: int = 0
    """Life of its lease. Hosts that are still up at its end start their VMs again."""


class HostReturn(Record, frozen=True, kw_only=True):
    """``returns/<node>``: the node's host shut down in order and is expected back. Under a lease of its own,
    which nobody renews. While it is there, no agent fences the node. Its presence decides, not its content."""

    node: str
    boot_id: str = ""
    """Boot of the machine that left."""
    reason: str = ""
    """Why its VMs wait for it."""
    at: str = ""
    """When it left, RFC 3339 UTC; for people only."""
    ttl_s: int = 0
    """Life of its lease. etcd counts it, so no clock of a node or person matters."""
    vms: int = 0
    """VMs that wait for it."""
    running: tuple[str, ...] = ()
    """VMs (``project/name``) whose guest had not stopped when the node left."""


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
