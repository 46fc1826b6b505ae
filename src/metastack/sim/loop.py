"""An event loop whose clock jumps instead of waiting.

Owns: virtual time. Refuses: threads (its executor raises) and real waiting.
Rule: time moves only when nothing is ready to run, straight to the next timer, so a run is deterministic and
as fast as the code in it.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")


class Stuck(RuntimeError):
    """Nothing is ready and no timer is set: everything waits for something that will never come."""


class _JumpingSelector(selectors.SelectSelector):
    """Instead of waiting for a timeout, it moves the loop's clock by it."""

    loop: VirtualLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        found = super().select(0)
        if not found and timeout is None:
            raise Stuck("nothing is ready and no timer is set")
        if not found and timeout:
            self.loop.now_s += timeout
        return found


class VirtualLoop(asyncio.SelectorEventLoop):
    """A loop at virtual second 0."""

    def __init__(self) -> None:
        self.now_s = 0.0
        selector = _JumpingSelector()
        selector.loop = self
        super().__init__(selector)
        self._clock_resolution = 1e-9

    def time(self) -> float:
        return self.now_s

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:
        raise RuntimeError(f"a thread was asked for in virtual time: {func}")


def run(main: Awaitable[T]) -> T:
    """Run a coroutine to its end in virtual time."""

    async def whole() -> T:
        return await main

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(whole())
