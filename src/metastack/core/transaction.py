"""A change: one etcd transaction as data. Guards carry the proof, effects are puts and deletes.

Owns: the vocabulary only; the changes themselves are in :mod:`metastack.core.protocol.claims`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from msgspec import Struct

MAX_OPERATIONS: Final = 128
"""etcd's default --max-txn-ops; guards and effects are counted apart."""


class Guard(Struct, frozen=True):
    """One compare. ``mod == 0`` means "the key is absent"."""

    key: str
    field: Literal["mod", "create", "version", "lease"]
    value: int


class Put(Struct, frozen=True):
    """Write ``value``; with ``leased`` under the lease that the change carries."""

    key: str
    value: bytes
    leased: bool = False


class Delete(Struct, frozen=True):
    """Delete a key, or with ``range_end`` every key in [key, range_end)."""

    key: str
    range_end: str = ""


class Transaction(Struct, frozen=True, kw_only=True):
    """Guards and effects of one transaction; ``name`` is for logs and scenarios."""

    name: str
    guards: tuple[Guard, ...]
    effects: tuple[Put | Delete, ...]
    lease: int = 0
    """Lease id for leased puts; 0 if there are none."""


def merged(parts: Sequence[Transaction]) -> Transaction:
    """One change with the guards and effects of all; what they have in common is compared once.

    All of one name and lease; no two of them write one key or compare one key with two values.
    """
    guards: dict[Guard, None] = {}
    for change in parts:
        guards |= dict.fromkeys(change.guards)
    return Transaction(
        name=parts[0].name,
        guards=tuple(guards),
        effects=tuple(effect for change in parts for effect in change.effects),
        lease=parts[0].lease,
    )


class Committed(Struct, frozen=True):
    """The change is in etcd at this revision."""

    revision: int
    cluster_id: int = 0
    """Of the etcd that answered; 0: it does not say."""
    term: int = 0
    """Its raft term: that of the very entry, so no older one."""


class Lost(Struct, frozen=True):
    """A guard failed; nothing was written. ``revision`` is the store's at that moment."""

    revision: int
    cluster_id: int = 0
    term: int = 0


Outcome = Committed | Lost


class Entry(Struct, frozen=True):
    """One key as etcd has it."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


class Snapshot(Struct, frozen=True):
    """All entries of a prefix at one revision."""

    revision: int
    entries: tuple[Entry, ...]
    cluster_id: int = 0
    """Of the etcd that answered. One that was restored from a backup may have another, or the same."""
    term: int = 0
    """Its raft term, which only grows in one cluster, and begins again in one that was restored.

    A member that was caught up by a snapshot says an older one until it has applied a write.
    """


class KeyEvent(Struct, frozen=True):
    """A key was put (``entry``) or deleted (``entry`` is None), at ``revision``."""

    key: str
    revision: int
    entry: Entry | None


class Batch(Struct, frozen=True):
    """Everything that a watch delivered at once, in order; ``events`` may be empty (progress)."""

    revision: int
    events: tuple[KeyEvent, ...]
    cluster_id: int = 0


class Lease(Struct, frozen=True):
    """A lease as granted or renewed."""

    id: int
    ttl_s: int
    deadline_s: float
    """Loop time until which it certainly lives: taken *before* the request was sent, plus the TTL."""
