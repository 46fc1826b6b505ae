"""Wall time and identifiers: the only two things that the agent takes from the machine it runs on.

Everything that is *decided* uses the loop's time; these are for people and for names only.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import UTC, datetime


class Clock:
    """Wall clock and names; a simulator brings its own."""

    def __init__(
        self,
        wall: Callable[[], float] = time.time,
        ident: Callable[[], str] = lambda: uuid.uuid4().hex,
    ) -> None:
        self._wall = wall
        self.ident = ident

    def ms(self) -> int:
        """Milliseconds since the epoch."""
        return int(self._wall() * 1000)

    def stamp(self, in_s: float = 0.0) -> str:
        """RFC 3339 in UTC, now or in some seconds."""
        return datetime.fromtimestamp(self._wall() + in_s, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
