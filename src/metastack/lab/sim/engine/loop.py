"""An event loop whose clock jumps instead of waiting, and which knows processes.

Owns: virtual time; which process a callback belongs to, and holding it back while that is stopped.
Refuses: threads (its executor raises), file descriptors and real waiting.
Rule: time moves only when nothing is ready to run, straight to the next timer, so a run is deterministic and
as fast as the code in it. A process that was stopped takes no step; what it waited for happens all the same,
and when it goes on everything is late, as after a real SIGSTOP.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
from asyncio import base_events, events
from collections.abc import Awaitable, Coroutine
from contextvars import Context, ContextVar
from typing import Any, NoReturn, TypeVar

T = TypeVar("T")

STEP_S = 1e-6
"""What one turn of the loop takes: without it, a wait of 1e-18 s would be repeated for ever."""
MOST_TURNS = 500_000
"""This many turns take at least a second, or something spins."""


class Stuck(RuntimeError):
    """Nothing is ready and no timer is set: everything waits for something that will never come."""


class Process:
    """One simulated process: every task and timer that began in it carries it along."""

    __slots__ = ("dead", "frozen", "held", "name")

    def __init__(self, name: str) -> None:
        self.name = name
        self.frozen = False
        self.dead = False
        self.held: list[events.Handle] = []
        """What would have run meanwhile, in order."""


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)
"""The process that runs right now; None: the world outside of the simulated agents."""


class VirtualLoop(base_events.BaseEventLoop):
    """A loop at virtual second 0."""

    _ready: Any
    _scheduled: list[Any]
    _stopping: bool

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._clock_resolution = 1e-9
        self._stopped = 0
        self._timers = 0
        self._turns = 0
        self._checked_s = 0.0
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        return self.now_s

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> NoReturn:  # type: ignore[override]
        raise RuntimeError(f"a thread was asked for in virtual time: {func}")

    # --- processes

    def start_process(self, process: Process, main: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine as the main task of a process."""
        context = Context()
        context.run(PROCESS.set, process)
        return self.create_task(main, context=context)

    def freeze(self, process: Process) -> None:
        """SIGSTOP."""
        if not process.frozen:
            process.frozen = True
            self._stopped += 1

    def thaw(self, process: Process) -> None:
        """SIGCONT: whatever came meanwhile happens now, in its order."""
        if process.frozen:
            process.frozen = False
            self._stopped -= 1
            self._ready.extend(process.held)
            process.held = []

    def kill(self, process: Process) -> None:
        """SIGKILL: it never takes a step again, not even to clean up."""
        process.dead = True
        self.freeze(process)

    async def bury(self, processes: list[Process]) -> None:
        """At the end of a run: let the tasks of the dead (and of everybody else) unwind. Nothing sees it."""
        for process in processes:
            process.dead = True
            self.thaw(process)
        me = asyncio.current_task()
        for _ in range(100):
            rest = [task for task in asyncio.all_tasks(self) if task is not me]
            if not rest:
                return
            for task in rest:
                task.cancel()
            await asyncio.wait(rest, timeout=1.0)
        raise RuntimeError(f"tasks that do not end: {rest}")

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, coro: Any, context: Context | None = None
    ) -> asyncio.Task[Any]:
        # A TaskGroup owns it, or the loop does: bury() ends them all.
        return asyncio.Task(coro, loop=loop, name="", context=context)

    # --- BaseEventLoop's inside

    def call_soon(  # type: ignore[override]
        self, callback: Any, *args: Any, context: Context | None = None
    ) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(  # type: ignore[override]
        self, when: float, callback: Any, *args: Any, context: Context | None = None
    ) -> events.TimerHandle:
        timer = events.TimerHandle(when, callback, args, self, context)
        # A pair with a number compares without a call, and timers of one instant keep their order.
        self._timers += 1
        heapq.heappush(self._scheduled, (when, self._timers, timer))
        return timer

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        """A cancelled timer stays in the heap until its time."""

    def _run_once(self) -> None:
        ready, scheduled = self._ready, self._scheduled
        while scheduled and scheduled[0][2]._cancelled:
            heapq.heappop(scheduled)
        if not ready and not self._stopping:
            if not scheduled:
                raise Stuck("nothing is ready and no timer is set")
            if scheduled[0][0] > self.now_s:
                self.now_s = scheduled[0][0]
        self.now_s += STEP_S
        self._turns += 1
        if self._turns % MOST_TURNS == 0:
            if self.now_s - self._checked_s < 1.0 and not self._stopping:
                raise Stuck(f"{MOST_TURNS} turns of the loop within {self.now_s - self._checked_s:.3f} s")
            self._checked_s = self.now_s
        now_s = self.now_s
        while scheduled and scheduled[0][0] <= now_s:
            ready.append(heapq.heappop(scheduled)[2])
        for _ in range(len(ready)):
            handle = ready.popleft()
            if handle._cancelled:
                continue
            context = handle._context
            if self._stopped:
                process = context.get(PROCESS)
                if process is not None and process.frozen:
                    process.held.append(handle)
                    continue
            try:
                context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.call_exception_handler({"message": "a callback failed", "exception": error})

    def _write_to_self(self) -> None:
        """Nothing sleeps, so nothing is to be woken."""

    def _process_events(self, event_list: Any) -> None:
        raise AssertionError("there are no file descriptors here")


def run(main: Awaitable[T]) -> T:
    """Run a coroutine to its end in virtual time."""

    async def whole() -> T:
        return await main

    # When the collector runs depends on the machine; what it finalizes must not run in between.
    was = gc.isenabled()
    gc.disable()
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            return runner.run(whole())
    finally:
        if was:
            gc.enable()
