"""etcd in memory: one cluster that any number of :class:`MemoryStore` clients share.

Owns: revisions, transactions, leases, history and compaction. Refuses: the network (that is the client's).
Rule: everything here happens in one step of the event loop, as etcd applies one raft entry after the other.
Time is the running loop's only, so a loop with a virtual clock drives leases as well.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from metastack.core.transaction import (
    Committed,
    Entry,
    Guard,
    KeyEvent,
    Lost,
    Outcome,
    Put,
    Transaction,
)
from metastack.ports import Compacted, LeaseGone, NoSpace

from ..etcd.limits import check, covers

FIRST_ID: Final = 0xCDF818194E3A8C32
EXPIRY_DELAY_S: Final = 0.5
"""etcd looks for expired leases every half second."""


class _Lease:
    """A lease, its keys, and the timer that ends it."""

    def __init__(self, ttl_s: int) -> None:
        self.ttl_s = ttl_s
        self.keys: set[str] = set()
        self.timer: asyncio.TimerHandle | None = None


class Backup(Struct, frozen=True):
    """A snapshot file."""

    revision: int
    entries: dict[str, Entry]
    ttls: dict[int, int]


class MemoryCluster:
    """An etcd without processes. Its methods below ``faults`` are for tests and the simulator."""

    def __init__(self, *, expiry_delay_s: float = EXPIRY_DELAY_S) -> None:
        self.revision = 1
        """As in etcd, whose first write is revision 2."""
        self.id = FIRST_ID
        """As in a response's header; a restored cluster may have another one."""
        self.term = 2
        """Of the first leader."""
        self.says_term: int | None = None
        """An older term that is reported until the next write: this member was caught up by a snapshot."""
        self.era = 0
        """How often its history was exchanged: every stream broke then."""
        self.compacted = 0
        """Revisions up to this one are gone from the history."""
        self.full = False
        """The no-space alarm: puts are refused, deletes work."""
        self.down = False
        """No quorum: nothing is answered."""
        self.renewals_lie = False
        """Renewals of leases that are gone answer "ok" (etcd before 3.4.38 and 3.5.23)."""
        self._expiry_delay_s = expiry_delay_s
        self._entries: dict[str, Entry] = {}
        self._history: list[tuple[int, tuple[KeyEvent, ...]]] = []
        self._leases: dict[int, _Lease] = {}
        self._next_lease = 0x1000
        self._waiting: dict[asyncio.Future[None], None] = {}

    # --- what a client asks

    def get(self, key: str) -> Entry | None:
        return self._entries.get(key)

    @property
    def said_term(self) -> int:
        """The term that reads are answered with."""
        return self.term if self.says_term is None else self.says_term

    def under(self, prefix: str) -> tuple[Entry, ...]:
        return tuple(self._entries[key] for key in sorted(self._entries) if key.startswith(prefix))

    def apply(self, change: Transaction) -> Outcome:
        """One transaction, in etcd's order: sizes, guards, lease, space, effects."""
        check(change)
        self.says_term = None
        if not all(self._holds(guard) for guard in change.guards):
            return Lost(self.revision, self.id, self.term)
        puts = [effect for effect in change.effects if isinstance(effect, Put)]
        if any(put.leased for put in puts) and change.lease not in self._leases:
            raise LeaseGone(f"{change.name}: lease {change.lease:x} does not exist")
        if puts and self.full:
            raise NoSpace(f"{change.name}: the store is full")
        revision = self.revision + 1
        events: list[KeyEvent] = []
        for effect in change.effects:
            if isinstance(effect, Put):
                events.append(self._put(effect, change.lease if effect.leased else 0, revision))
            else:
                events.extend(self._delete(sorted(k for k in self._entries if covers(effect, k)), revision))
        self._record(revision, events)
        return Committed(self.revision, self.id, self.term)

    def grant(self, ttl_s: int) -> int:
        self._next_lease += 1
        self._leases[self._next_lease] = _Lease(ttl_s)
        self._arm(self._next_lease)
        return self._next_lease

    def renew(self, lease: int) -> bool:
        """False when the lease is gone."""
        if lease not in self._leases:
            return self.renewals_lie
        self._arm(lease)
        return True

    def left_s(self, lease: int) -> float:
        """Whole seconds, as etcd says them; 0 when the lease is gone."""
        timer = self._leases[lease].timer if lease in self._leases else None
        if timer is None:
            return 0.0
        return float(max(0, int(timer.when() - self._expiry_delay_s - asyncio.get_running_loop().time())))

    def revoke(self, lease: int) -> None:
        """End a lease: its keys vanish in one revision. Absent is fine."""
        ended = self._leases.pop(lease, None)
        if ended is None:
            return
        if ended.timer is not None:
            ended.timer.cancel()
        self._record(self.revision + 1, self._delete(sorted(ended.keys), self.revision + 1))

    def events_after(self, revision: int, prefix: str, until: str = "") -> tuple[KeyEvent, ...]:
        """Raises Compacted when events after ``revision`` may be gone."""
        if revision < self.compacted - 1:
            raise Compacted(f"watch {prefix}: revision {revision + 1} is gone, the oldest is {self.compacted}")
        start = bisect_right(self._history, revision, key=lambda item: item[0])
        found = (e for _, events in self._history[start:] for e in events if e.key.startswith(prefix))
        return tuple(e for e in found if not until or e.key < until)

    async def changed(self) -> None:
        """Return after something happened that a watcher may care about."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[future] = None
        try:
            await future
        finally:
            self._waiting.pop(future, None)

    def wake(self) -> None:
        """Let every watcher look."""
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    def stop(self) -> None:
        """Drop every timer, so that a loop can end."""
        for lease in self._leases.values():
            if lease.timer is not None:
                lease.timer.cancel()

    # --- faults

    def compact(self, revision: int | None = None) -> None:
        """Forget the history below ``revision`` (now, when not given)."""
        self.compacted = self.revision if revision is None else revision
        self._history = [item for item in self._history if item[0] >= self.compacted]
        self.wake()

    def new_leader(self) -> None:
        """Every lease starts again at its full TTL."""
        self.term += 1
        for lease in self._leases:
            self._arm(lease)

    def backup(self) -> Backup:
        """What ``etcdctl snapshot save`` writes: entries with their revisions, and leases."""
        ttls = {number: lease.ttl_s for number, lease in self._leases.items()}
        return Backup(self.revision, dict(self._entries), ttls)

    def restore(self, backup: Backup, id_: int | None = None) -> None:
        """``etcdctl snapshot restore``: another history from here on, with another id unless one is given.

        Its leases begin at their full TTL, there is nothing to watch from before, and the terms begin again.
        """
        self.stop()
        self.id = self.id + 1 if id_ is None else id_
        self.revision, self._entries = backup.revision, dict(backup.entries)
        self._history, self.compacted, self.term = [], backup.revision, 2
        self.era += 1
        self._leases = {number: _Lease(ttl_s) for number, ttl_s in backup.ttls.items()}
        for key, entry in self._entries.items():
            if entry.lease in self._leases:
                self._leases[entry.lease].keys.add(key)
        for number in self._leases:
            self._arm(number)
        self.wake()

    def outage(self) -> None:
        """The quorum is lost: nothing is answered and no lease expires until :meth:`recover`."""
        self.down = True
        self.stop()
        self.wake()

    def recover(self) -> None:
        self.down = False
        self.new_leader()
        self.wake()

    # --- inside

    def _holds(self, guard: Guard) -> bool:
        entry = self._entries.get(guard.key)
        if entry is None:
            return guard.value == 0
        seen = {
            "mod": entry.mod_revision,
            "create": entry.create_revision,
            "version": entry.version,
            "lease": entry.lease,
        }
        return seen[guard.field] == guard.value

    def _put(self, put: Put, lease: int, revision: int) -> KeyEvent:
        old = self._entries.get(put.key)
        if old is not None and old.lease in self._leases:
            self._leases[old.lease].keys.discard(put.key)
        if lease:
            self._leases[lease].keys.add(put.key)
        created, version = (old.create_revision, old.version + 1) if old else (revision, 1)
        entry = Entry(put.key, put.value, created, revision, version, lease)
        self._entries[put.key] = entry
        return KeyEvent(put.key, revision, entry)

    def _delete(self, keys: Iterable[str], revision: int) -> list[KeyEvent]:
        events = []
        for key in keys:
            old = self._entries.pop(key, None)
            if old is None:
                continue
            if old.lease in self._leases:
                self._leases[old.lease].keys.discard(key)
            events.append(KeyEvent(key, revision, None))
        return events

    def _record(self, revision: int, events: list[KeyEvent]) -> None:
        """A revision exists only when something changed."""
        if events:
            self.revision = revision
            self._history.append((revision, tuple(events)))
            self.wake()

    def _arm(self, id_: int) -> None:
        lease = self._leases[id_]
        if lease.timer is not None:
            lease.timer.cancel()
        loop = asyncio.get_running_loop()
        lease.timer = loop.call_at(loop.time() + lease.ttl_s + self._expiry_delay_s, self.revoke, id_)
