"""Misses: nodes that are alive but deaf would otherwise rank first for ever.

Rule: whenever a node of a later rank wins, every better rank is charged a miss and comes last for a while,
longer each time; whoever wins is forgiven. Counted in claims seen, not in seconds: two agents that saw the
same claims agree.

When the while is over a node is *tried* with one VM; until somebody claims that, it still comes last. Were it
not, a burst would give it all the VMs that it had been spared.
"""

from __future__ import annotations

from collections.abc import Iterable
from heapq import heappop, heappush

from ..model import VmId

_FIRST = 16
"""Claims that a first miss lasts in a small cluster ..."""
_SHARE = 2
"""... and in a large one the nodes divided by this: there each node's turn comes less often."""
_LONGER = (1, 6, 6, 36, 216)
"""Each further miss lasts this many times as long as the first. Most nodes that miss are late for a second or
less: two charges are about that long, and no third one much longer leaves their place empty. A node that still
misses after that is deaf."""


class Misses:
    """The nodes that are charged, and until when."""

    def __init__(self, nodes: int = 0) -> None:
        self.count: dict[str, int] = {}
        self._until: dict[str, int] = {}
        self._claims = 0
        self._first = max(_FIRST, nodes // _SHARE)
        self._ends: list[tuple[int, str]] = []
        """When each charge is over, the next one first."""
        self._trials: dict[str, VmId] = {}
        self.news: set[str] = set()
        """Whose charge changed since the engine looked."""

    def won(self, winner: str, head: tuple[str, ...]) -> None:
        """A VM that these were to take, best first, was claimed."""
        self._claims += 1
        while self._ends and self._ends[0][0] <= self._claims:
            self.news.add(heappop(self._ends)[1])
        if self.count:
            self.forgive(winner)
        if winner not in head[1:]:
            return
        for name in head[: head.index(winner)]:
            # Whoever is charged already missed these before it was: a burst that meets a node in a bad moment
            # is one miss, not as many as it has VMs.
            if self._until.get(name, -1) <= self._claims:
                misses = self.count[name] = self.count.get(name, 0) + 1
                until = self._until[name] = self._claims + self._first * _LONGER[min(misses, len(_LONGER)) - 1]
                heappush(self._ends, (until, name))
                self.news.add(name)

    def forgive(self, name: str) -> None:
        """It took one, or is another session."""
        if self.count.pop(name, None) is not None:
            del self._until[name]
            self._trials.pop(name, None)
            self.news.add(name)

    def promised(self, name: str, vm: VmId) -> None:
        """The VM is this node's to take."""
        if name in self.count and name not in self._trials:
            self._trials[name] = vm
            self.news.add(name)

    def released(self, name: str, vm: VmId) -> None:
        """It no longer is."""
        if self._trials.get(name) == vm:
            del self._trials[name]
            self.news.add(name)

    def head_of(self, names: Iterable[str], limit: int) -> list[str]:
        """The first ``limit`` of these nodes. A node that missed and took nothing since is tried as the first
        only: behind another it would cost one more delay, and several of them the whole head."""
        found: list[str] = []
        missed: list[str] = []
        for name in names:
            (missed if found and name in self.count else found).append(name)
            if len(found) == limit:
                break
        return (found + missed)[:limit]

    def charged(self, name: str) -> int:
        """Misses for which the node still comes last; 0: none."""
        if self._until.get(name, -1) > self._claims or name in self._trials:
            return self.count.get(name, 0)
        return 0
