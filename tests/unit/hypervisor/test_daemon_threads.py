"""Threads for calls that may never return."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import wait
from functools import partial
from pathlib import Path

import pytest

from metastack.ports.threads import KEPT, Threads


def test_calls_run_at_once_and_few_threads_are_kept() -> None:
    threads, together = Threads("test"), threading.Barrier(40, timeout=20)
    before = threading.active_count()
    for _ in range(3):
        futures = [threads.submit(together.wait) for _ in range(40)]
        assert not wait(futures, 20).not_done
        assert sorted(future.result() for future in futures) == list(range(40))
    threads.close()
    for thread in threading.enumerate():
        if thread.name.startswith("test-"):
            thread.join(10)
    assert threading.active_count() <= before + KEPT
    with pytest.raises(RuntimeError, match="closed"):
        threads.submit(together.wait)


def test_an_error_is_the_callers() -> None:
    threads = Threads("test")
    future = threads.submit(lambda: 1 // 0)
    assert isinstance(future.exception(10), ZeroDivisionError)
    assert threads.submit(lambda: 7).result(10) == 7
    threads.close()


def test_calls_beyond_the_limit_wait() -> None:
    threads, gate, began = Threads("test", 2), threading.Event(), threading.Semaphore(0)

    def call(number: int) -> int:
        began.release()
        assert gate.wait(20)
        return number

    futures = [threads.submit(partial(call, number)) for number in range(20)]
    assert began.acquire(timeout=20) and began.acquire(timeout=20)
    assert not began.acquire(blocking=False)
    assert futures[19].cancel()
    gate.set()
    assert [future.result(20) for future in futures[:19]] == list(range(19))
    assert threads.submit(lambda: 7).result(20) == 7
    threads.close()


STUCK = {
    "threads": "Threads('test').submit(never)",
    "storage": "asyncio.run(cancelled(StorageThreads('test', 2).run('removing', never, None)))",
    "emulators": "asyncio.run(cancelled(Emulators(60.0, proc).all()))",
}


@pytest.mark.parametrize("who", STUCK)
def test_a_process_ends_beside_a_call_that_never_returns(who: str, tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    os.mkfifo(tmp_path / "7" / "cmdline")
    code = f"""
import asyncio, os, sys, threading
from contextlib import suppress
from metastack.hypervisor.emulators import Emulators
from metastack.ports.threads import Threads
from metastack.storage.threads import StorageThreads

began, proc = threading.Event(), sys.argv[1]

def never():
    began.set()
    threading.Event().wait()

async def cancelled(call):
    task = asyncio.ensure_future(call)
    await asyncio.sleep(0.2)
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task

{STUCK[who]}
assert "{who}" == "emulators" or began.wait(10)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=30, check=True)
