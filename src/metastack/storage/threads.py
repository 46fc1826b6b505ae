"""The storage adapters' threads, with every call counted.

Owns: a few threads and the number of calls in them. Refuses: more waiting calls than its bound.
Rule: a call counts from submission until its *thread* is done, whatever became of the await that wanted it:
cancelling an await does not stop a thread.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

from metastack.ports import Unavailable, UnknownOutcome
from metastack.ports.threads import Threads

T = TypeVar("T")

MAX_CALLS = 256


class StorageThreads:
    """``threads`` threads named after ``name``; at most 256 calls under way or waiting."""

    def __init__(self, name: str, threads: int) -> None:
        self._name = name
        self._pool = Threads(name, threads)
        self._lock = threading.Lock()
        self._calls = 0
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = []

    async def run(self, what: str, call: Callable[[], T], timeout_s: float | None) -> T:
        """Run ``call`` in a thread; after ``timeout_s`` comes UnknownOutcome and the call goes on."""
        with self._lock:
            if self._calls >= MAX_CALLS:
                raise Unavailable(f"{self._name}: {self._calls} calls are waiting already; {what} not started")
            self._calls += 1
        try:
            future = self._pool.submit(call)
        except RuntimeError as error:
            self._done()
            raise Unavailable(f"{self._name}: {what} not started: {error}") from None
        future.add_done_callback(self._done)
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            # A call that had not started was cancelled with the await: nothing was applied. Not so here.
            if future.cancelled():
                raise Unavailable(f"{what}: not started within {timeout_s} s") from None
            raise UnknownOutcome(f"{what}: no answer within {timeout_s} s; it may still happen") from None

    async def quiesce(self) -> None:
        """Return when no call is in flight."""
        loop = asyncio.get_running_loop()
        waiter: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._calls == 0:
                return
            self._waiters.append((loop, waiter))
        await waiter

    def shutdown(self) -> None:
        """No new calls; running ones end by themselves, or with the process."""
        self._pool.close()

    def _done(self, _future: Future[T] | None = None) -> None:
        with self._lock:
            self._calls -= 1
            waiters, self._waiters = (self._waiters, []) if self._calls == 0 else ([], self._waiters)
        for loop, waiter in waiters:
            try:
                loop.call_soon_threadsafe(_wake, waiter)
            except RuntimeError:
                pass  # that loop is closed: nobody waits there any more


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
