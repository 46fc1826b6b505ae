"""Numbers that only grow, and the base of every record.

Rule: session, epoch and through are compared as they are, never taken apart to compare.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

# Numbers that only grow. Session, epoch and through are the etcd revision of the put that made them, paired
# with the cluster's generation (raised when etcd is restored from a backup, which turns revisions back).
# The pair is one integer, so that comparing two of them is comparing two integers; up to generation 511 it
# also fits a JavaScript number.

_REVISION_BITS: Final = 44


def token(generation: int, revision: int) -> int:
    """The ordered pair (generation, revision) as one integer."""
    if not 0 <= revision < 1 << _REVISION_BITS:
        raise ValueError(f"revision {revision} out of range")
    return (generation << _REVISION_BITS) | revision


def token_revision(value: int) -> int:
    """The etcd revision inside a token."""
    return value & ((1 << _REVISION_BITS) - 1)


def token_generation(value: int) -> int:
    """The cluster generation inside a token."""
    return value >> _REVISION_BITS


class Record(Struct, kw_only=True, omit_defaults=False, frozen=True):
    """Base of everything stored in etcd: JSON with a version."""

    v: int = 1
