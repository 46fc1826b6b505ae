"""Misses: nodes that are alive but deaf would rank first for ever.

Rule: whenever a node of a later rank wins, every better rank is charged a miss and comes last for a while,
longer each time; whoever wins is forgiven. Counted in claims seen, not in seconds: two agents that saw the
same claims agree.
"""

from __future__ import annotations

_FIRST = 16
_DOUBLINGS = 6


class Misses:
    """Who is charged, and until when."""

    def __init__(self) -> None:
        self.count: dict[str, int] = {}
        self._until: dict[str, int] = {}
        self._claims = 0

    def won(self, winner: str, head: tuple[str, ...]) -> None:
        """A VM that these were to take, best first, was claimed."""
        self._claims += 1
        if self.count:
            self.count.pop(winner, None)
            self._until.pop(winner, None)
        if winner not in head[1:]:
            return
        for name in head[: head.index(winner)]:
            self.count[name] = misses = self.count.get(name, 0) + 1
            self._until[name] = self._claims + (_FIRST << min(misses - 1, _DOUBLINGS))

    def charged(self, name: str) -> int:
        """Misses for which the node still comes last; 0: none."""
        return self.count.get(name, 0) if self._until.get(name, -1) > self._claims else 0

    def __bool__(self) -> bool:
        return bool(self._until)
