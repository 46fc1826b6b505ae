"""The simulated etcd: the store's twin, with a memory of everything that ever happened in it.

Owns: the full history (whatever was compacted) and who is told of each commit.
Refuses: semantics of its own; those are the twin's, which passes the contract suite that etcd passes.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable
from typing import Final

from ....core.transaction import Entry, KeyEvent, Outcome, Transaction
from ....store.twin.cluster import Backup, MemoryCluster

RESTORED: Final = "restored"
"""Name of the change that a restore is to listeners: every key as it is from then on, or is gone."""
RESTORED_TTL_S: Final = 5

Listener = Callable[[str, int, tuple[KeyEvent, ...]], None]
"""Called with the change's name (``lease`` for an expiry), the revision and its events."""


class SimCluster(MemoryCluster):
    """An etcd whose every revision is told to listeners, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.past: list[tuple[int, tuple[KeyEvent, ...]]] = []
        """Everything, for the checkers; compaction does not reach it."""
        self.listeners: list[Listener] = []
        self._by = "lease"
        self._times: list[float] = []
        """When each revision of ``past`` was made, loop seconds."""
        self._astray = False
        """An old backup answers: what happens to it is not history."""
        self.highest = 0
        """The highest revision before the last restore."""

    @property
    def astray(self) -> bool:
        """An old backup answers."""
        return self._astray

    def go_back(self, at_s: float) -> Callable[[], None] | None:
        """Answer as of that second, until the returned function brings the true etcd back."""
        if self._astray:
            return None
        kept = (self._entries, self.revision, self._history, self.compacted)
        count = bisect_right(self._times, at_s)
        self._entries = self._as_of(count)
        self.revision = self.past[count - 1][0] if count else 1
        self._history = [item for item in self._history if item[0] <= self.revision]
        self._astray = True
        self.id += 1
        self.era += 1
        self._settle_leases()

        def back() -> None:
            self._entries, self.revision, self._history, self.compacted = kept
            self._astray = False
            self.id -= 1
            self.era += 1
            self._settle_leases()
            self.new_leader()
            gone = sorted(k for k, e in self._entries.items() if e.lease and e.lease not in self._leases)
            self._record(self.revision + 1, self._delete(gone, self.revision + 1))

        return back

    def restore_as_of(self, at_s: float, *, same_id: bool) -> None:
        """The state of that second, for good: it is all the history that there is from now on."""
        count = bisect_right(self._times, at_s)
        before, entries = self._entries, self._as_of(count)
        self.highest = self.revision
        del self.past[count:], self._times[count:]
        revision = self.past[-1][0] if count else 1
        leases = {entry.lease: RESTORED_TTL_S for entry in entries.values() if entry.lease}
        self.restore(Backup(revision, entries, leases), self.id if same_id else None)
        gone = [KeyEvent(key, revision, None) for key in sorted(before.keys() - entries.keys())]
        there = [KeyEvent(key, revision, entry) for key, entry in sorted(entries.items())]
        for listener in self.listeners:
            listener(RESTORED, revision, (*gone, *there))

    def _as_of(self, count: int) -> dict[str, Entry]:
        """The entries after the first ``count`` revisions."""
        old: dict[str, Entry] = {}
        for _, events in self.past[:count]:
            for event in events:
                if event.entry is None:
                    old.pop(event.key, None)
                else:
                    old[event.key] = event.entry
        return old

    def _settle_leases(self) -> None:
        """Which keys hang on which lease, after the entries were exchanged."""
        for number, lease in self._leases.items():
            lease.keys = {key for key, entry in self._entries.items() if entry.lease == number}

    def apply(self, change: Transaction) -> Outcome:
        self._by = change.name
        try:
            return super().apply(change)
        finally:
            self._by = "lease"

    def _record(self, revision: int, events: list[KeyEvent]) -> None:
        if events and not self._astray:
            self.past.append((revision, tuple(events)))
            self._times.append(asyncio.get_running_loop().time())
            for listener in self.listeners:
                listener(self._by, revision, tuple(events))
        super()._record(revision, events)
