"""A record as it was seen in etcd: with the revisions that guards compare."""

from __future__ import annotations

from typing import Generic, TypeVar

from msgspec import Struct

from ..model import Record

R = TypeVar("R", bound=Record)


class Seen(Struct, Generic[R], frozen=True):
    """A record and the numbers of its key."""

    record: R | None
    """None when it does not parse; then ``why`` says so."""
    mod: int
    create: int
    lease: int = 0
    why: str = ""
    check: int = -1
    """Checksum of the bytes that it was decoded from; -1: it was not."""

    @property
    def ok(self) -> R:
        """The record; only for callers that have checked that it parses."""
        if self.record is None:
            raise ValueError(f"unreadable record used: {self.why}")
        return self.record


def mod_of(seen: Seen[R] | None) -> int:
    """The mod revision to guard with; 0 ("absent") for none."""
    return seen.mod if seen is not None else 0
