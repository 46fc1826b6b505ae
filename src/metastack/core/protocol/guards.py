"""Guards: what a guarded transaction compares.

Owns: who commits, and the three comparisons that every change of the protocol is made of.
Refuses: the changes themselves (:mod:`.claims`, :mod:`.fences`).
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from ..model import Record, token_revision
from ..state.cluster_state import R, Seen, mod_of
from ..state.codec import encode
from ..state.keys import Keys
from ..transaction import Guard, Put

Extra = Iterable[tuple[str, Record]]
"""Unguarded records that ride along in the same transaction: events."""


def puts_of(extra: Extra) -> tuple[Put, ...]:
    """The effects of what rides along."""
    return tuple(Put(key, encode(record)) for key, record in extra)


class OwnSession(Struct, frozen=True, kw_only=True):
    """The session that commits: a node in one session under one lease."""

    node: str
    session: int
    lease: int
    generation: int = 0


def absent(key: str) -> Guard:
    """Nothing is at that key."""
    return Guard(key, "mod", 0)


def unchanged(key: str, found: Seen[R] | None) -> Guard:
    """The key is as it was seen; absent when it was not there."""
    return Guard(key, "mod", mod_of(found))


def in_session(keys: Keys, me: OwnSession) -> Guard:
    """``alive = S``: my alive key still has the create revision that is my session."""
    return Guard(keys.node_alive(me.node), "create", token_revision(me.session))
