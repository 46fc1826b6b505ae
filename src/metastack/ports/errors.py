"""The three error families that every port raises, and their refinements.

Rule: a refinement exists only where a caller does something else about it.
"""

from __future__ import annotations


class Unavailable(Exception):
    """Something outside does not answer, or not now. Retry with backoff. Nothing was applied."""


class UnknownOutcome(Unavailable):
    """The request may or may not have been applied: look again before deciding anything."""


class Refused(Exception):
    """A guard failed, or the outside said no for a reason that stays: look again; not a bug."""


class Broken(Exception):
    """Our own bug, or a state that must not exist. Crash the session, loudly."""


# --- refinements, by what the caller does differently


class Compacted(Refused):
    """The watch's revision is gone: list again."""


class LeaseGone(Refused):
    """The lease does not exist any more: the session is over."""


class NoSpace(Unavailable):
    """The store, the pool or the disk is full; the message says which."""


class Denied(Refused):
    """Credentials do not allow this; the message says whose and what for."""


class NotFound(Refused):
    """The named object does not exist."""


class Exists(Refused):
    """The named object exists already."""


class InUse(Refused):
    """The disk is locked by a live writer, or the image has clones."""


class InvalidImage(Refused):
    """The image file is corrupt, truncated, of an unexpected format or refers to other files."""


class Fenced(Unavailable):
    """The storage refuses us: this node is on its blocklist."""
