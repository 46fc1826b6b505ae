"""The simulated etcd: the store's twin, with a memory of everything that ever happened in it.

Owns: the full history (whatever was compacted) and who is told of each commit.
Refuses: semantics of its own; those are the twin's, which passes the contract suite that etcd passes.
"""

from __future__ import annotations

from collections.abc import Callable

from ..core.change import Change, KeyEvent, Outcome
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

    def apply(self, change: Change) -> Outcome:
        self._by = change.name
        try:
            return super().apply(change)
        finally:
            self._by = "lease"

    def _record(self, revision: int, events: list[KeyEvent]) -> None:
        if events:
            self.past.append((revision, tuple(events)))
            for listener in self.listeners:
                listener(self._by, revision, tuple(events))
        super()._record(revision, events)
