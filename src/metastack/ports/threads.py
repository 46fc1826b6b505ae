"""The adapters' threads, for calls that may never return.

Owns: starting them, as many as are needed or as are allowed, and keeping a few for the next call.
Refuses: counting calls, and waiting for any.
Rule: they are daemons. A thread in a call to a QEMU that is stopped, or in a removal that takes an hour, ends
with the process and never delays its end. Python joins the threads of its own pools, without a limit.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Final, TypeVar

T = TypeVar("T")

KEPT: Final = 8
"""Idle threads that wait for another call."""
MAX_CALLS: Final = 256
"""More calls than that are refused: something is very wrong by then."""


class Threads:
    """Runs calls, each at once; or ``at_once`` of them, and the others after."""

    def __init__(self, name: str, at_once: int = 0) -> None:
        self._name, self._at_once = name, at_once
        self._lock = threading.Lock()
        self._work: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = queue.SimpleQueue()
        self._idle = 0
        """Threads that wait, less the calls that are queued for them: below zero, calls wait for a thread."""
        self._all = 0
        self._closed = False

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Run it in a thread; raises RuntimeError when there are too many, or after :meth:`close`."""
        future: Future[T] = Future()
        with self._lock:
            if self._closed:
                raise RuntimeError(f"{self._name}: closed")
            if self._idle > 0 or self._all == self._at_once > 0:
                self._idle -= 1
            elif self._all >= MAX_CALLS:
                raise RuntimeError(f"{self._name}: {self._all} calls have not returned")
            else:
                name = f"{self._name}-{self._all + 1}"
                threading.Thread(target=self._run, name=name, daemon=True).start()
                self._all += 1
            self._work.put((future, call))
        return future

    def close(self) -> None:
        """No new calls; idle threads end now, others after their call."""
        with self._lock:
            self._closed = True
            for _ in range(self._all):
                self._work.put(None)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            future, call = work
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:
                    future.set_exception(error)
                else:
                    future.set_result(result)
            del work, future, call
            with self._lock:
                if self._idle >= KEPT and not self._closed:
                    self._all -= 1
                    return
                self._idle += 1
