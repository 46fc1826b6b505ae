"""The simulated etcd: the store's twin, with a memory of everything that ever happened in it.

Owns: the full history (whatever was compacted) and who is told of each commit.
Refuses: semantics of its own; those are the twin's, which passes the contract suite that etcd passes.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections.abc import Callable

from ..core.change import Change, Entry, KeyEvent, Outcome
from ..store.memory_cluster import MemoryCluster

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

    def go_back(self, at_s: float) -> Callable[[], None] | None:
        """Answer as of that second, until the returned function brings the true etcd back."""
        if self._astray:
            return None
        kept = (self._entries, self.revision, self._history, self.compacted)
        count = bisect_right(self._times, at_s)
        old: dict[str, Entry] = {}
        for _, events in self.past[:count]:
            for event in events:
                if event.entry is None:
                    old.pop(event.key, None)
                else:
                    old[event.key] = event.entry
        self._entries = old
        self.revision = self.past[count - 1][0] if count else 1
        self._history = [item for item in self._history if item[0] <= self.revision]
        self._astray = True
        self._settle_leases()

        def back() -> None:
            self._entries, self.revision, self._history, self.compacted = kept
            self._astray = False
            self._settle_leases()
            self.new_leader()
            gone = sorted(k for k, e in self._entries.items() if e.lease and e.lease not in self._leases)
            self._record(self.revision + 1, self._delete(gone, self.revision + 1))

        return back

    def _settle_leases(self) -> None:
        """Which keys hang on which lease, after the entries were exchanged."""
        for number, lease in self._leases.items():
            lease.keys = {key for key, entry in self._entries.items() if entry.lease == number}

    def apply(self, change: Change) -> Outcome:
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
