"""A fair queue of keys: deduplicating, level-triggered, one worker a key.

Owns: which key is worked on next. Refuses: payloads; a worker looks at the world afresh.
Rule: a key that is added while it is being worked on is worked on once more afterwards, never at once.
Bound: it holds each key at most once, so it is as long as there are objects.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

K = TypeVar("K", bound=Hashable)

TICK_S: Final = 0.001
"""Of uvloop's clock."""


class WorkQueue(Generic[K]):
    """First come, first served."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[K, None] = OrderedDict()
        self._working: set[K] = set()
        self._again: set[K] = set()
        self._timers: dict[K, tuple[float, asyncio.Handle]] = {}
        """When, and what to cancel: uvloop's handle of a time that is nearly come does not say when."""
        self._idle: deque[asyncio.Future[None]] = deque()
        """Workers that found nothing: one key wakes one of them, not all."""

    def add(self, key: K) -> None:
        """Work on the key soon; a later appointment for it is void."""
        timer = self._timers.pop(key, None)
        if timer is not None:
            timer[1].cancel()
        if key in self._working:
            self._again.add(key)
        elif key not in self._waiting:
            self._waiting[key] = None
            self._wake()

    def add_after(self, key: K, delay_s: float) -> None:
        """Work on the key in ``delay_s`` seconds, unless an earlier appointment exists."""
        if delay_s <= 0:
            self.add(key)
        else:
            self.add_at(key, asyncio.get_running_loop().time() + delay_s)

    def add_at(self, key: K, due_s: float) -> None:
        """Work on the key at that time of the loop's, unless an earlier appointment exists."""
        loop, timer = asyncio.get_running_loop(), self._timers.get(key)
        # The loop's clock ticks in milliseconds, and rounds: sooner, a look would find that nothing is due yet,
        # again and again until the next tick.
        if (now_s := loop.time()) < due_s < now_s + TICK_S:
            due_s = now_s + TICK_S
        if timer is not None:
            if timer[0] <= due_s:
                return
            timer[1].cancel()
        self._timers[key] = due_s, loop.call_at(due_s, self._fire, key)

    def _fire(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def get(self) -> K:
        """The next key; :meth:`done` must follow."""
        while not self._waiting:
            idle = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            try:
                await idle
            except asyncio.CancelledError:
                # The key that woke this worker must not be left lying while another sleeps.
                if idle.done() and not idle.cancelled():
                    self._wake()
                raise
        key, _ = self._waiting.popitem(last=False)
        self._working.add(key)
        return key

    def _wake(self) -> None:
        while self._idle:
            idle = self._idle.popleft()
            if not idle.done():
                idle.set_result(None)
                return

    def done(self, key: K) -> None:
        """The work on the key has ended."""
        self._working.discard(key)
        if key in self._again:
            self._again.discard(key)
            self.add(key)

    def close(self) -> None:
        """Cancel every appointment."""
        for _, handle in self._timers.values():
            handle.cancel()
        self._timers.clear()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._working)
