"""The three error families that every port raises, and their refinements.

Rule: a refinement exists only where a caller acts differently. The type, never the text, also tells whether the
node or the object is at fault.
"""

from __future__ import annotations


class Unavailable(Exception):
    """Something outside does not answer, or not now. Retry with backoff.

    Nothing was applied, unless it is an :class:`UnknownOutcome`.
    """


class UnknownOutcome(Unavailable):
    """The request may or may not have been applied: look again before deciding anything."""


class Refused(Exception):
    """A guard failed, or the outside said no for a reason that stays: look again; not a bug."""


class Broken(Exception):
    """Our own bug, or a state that must not exist. Crash the session, loudly."""


# --- what is at fault: mixed into the refinements below


class NodeFault(Exception):
    """This node is at fault: another node may do better (agent/reconcile/give_back)."""


class ObjectFault(Exception):
    """The object itself is at fault: every node would fail, so the object's status shows it."""


# --- refinements, by what the caller does differently


class Compacted(Refused):
    """The watch's revision is gone: list again."""


class LeaseGone(Refused):
    """The lease does not exist any more: the session is over."""


class NoSpace(Unavailable):
    """The store, the pool or the disk is full; the message says which."""


class LocalTrouble(NodeFault, Unavailable):
    """This host's own disk, memory or file handles do not serve: full, read-only, failing."""


class CannotStart(NodeFault, Refused):
    """QEMU or libvirt does not start the guest, for a reason of this host."""


class StartUnknown(NodeFault, UnknownOutcome):
    """A start got no answer in time: the guest may still begin."""


class Denied(NodeFault, Refused):
    """Credentials do not allow this; the message says whose and what for."""


class NotFound(ObjectFault, Refused):
    """The named object does not exist."""


class Exists(ObjectFault, Refused):
    """The named object exists already."""


class InUse(ObjectFault, Refused):
    """The disk is locked by a live writer, or the image has clones."""


class InvalidImage(ObjectFault, Refused):
    """The image file is corrupt, truncated, of an unexpected format or refers to other files."""


class BadState(ObjectFault, Refused):
    """The object is in a state, or has a name, that the storage does not do this with."""


class NotOurs(ObjectFault, Refused):
    """The object bears no mark of this cluster, or another's: it is left alone."""


class MissingDisk(NotFound):
    """A disk that was made is not there. It is not made once more: that would hide the loss."""


class Fenced(Unavailable):
    """The storage refuses us: this node is on its blocklist."""
