"""Threads for calls that may never return."""

from __future__ import annotations

import subprocess
import sys
import threading
from concurrent.futures import wait

import pytest

from metastack.hypervisor.threads import KEPT, Threads


def test_as_many_as_needed_run_at_once_and_a_few_are_kept() -> None:
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


def test_a_process_ends_beside_a_call_that_never_returns() -> None:
    code = (
        "import threading; from metastack.hypervisor.threads import Threads; "
        "began = threading.Event(); "
        "Threads('test').submit(lambda: (began.set(), threading.Event().wait())); began.wait(10)"
    )
    subprocess.run([sys.executable, "-c", code], timeout=20, check=True)
