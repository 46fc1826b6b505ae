"""Records of removal: disks in the trash, the time that they have lain there, imports that were begun.

Rule: whatever a node removes for good is named by one of these, or by an image's own record. All are durable.
"""

from __future__ import annotations

from .numbers import Record


class Trashed(Record, frozen=True, kw_only=True):
    """``trash/<uuid>``: a disk that a node moves to the trash; written before it is moved."""

    uuid: str
    """The volume's."""
    project: str
    vm: str
    vm_uuid: str
    image_uuid: str
    size_bytes: int
    ident: str
    """The object's own id in the storage: only that very object is ever purged or put back."""
    cluster_id: str = ""
    """Whose mark it bears; empty: there were no marks then."""
    at: str = ""
    """RFC 3339 UTC, for people."""
    until_ms: int = 0
    """End of its retention by the clock of the node that moved it, milliseconds since the epoch."""
    retention_s: int = 0
    counted_s: float = 0.0
    """What ``counted`` said when it was moved."""
    by: str = ""


class Counted(Record, frozen=True, kw_only=True):
    """``counted``: seconds that agents have counted together, by clocks that nobody sets.

    The second clock of the trash. It is never ahead of real time, and stands still while no agent counts.
    """

    seconds: float = 0.0
    by: str = ""


class Import(Record, frozen=True, kw_only=True):
    """``imports/<uuid>``: an import was begun, and something of that UUID may lie in the storage."""

    uuid: str
    name: str
    generation: int = 0
    cluster_id: str = ""
    at: str = ""
    by: str = ""
