"""A bench that is ended or killed leaves neither etcd nor its processes behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
STORY = """
import asyncio
from bench.__main__ import stoppable
from bench.scale.stage import stage

async def story():
    async with stage() as one:
        worker = await one.worker()
        print(one.etcd_pid, worker.pid, one.folder, flush=True)
        await asyncio.sleep(600)

stoppable()
asyncio.run(story())
"""


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.etcd
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_left(tmp_path: Path, how: signal.Signals) -> None:
    with (tmp_path / "errors").open("wb") as errors:
        bench = subprocess.Popen(
            [sys.executable, "-c", STORY], cwd=TOP, stdout=subprocess.PIPE, stderr=errors, text=True
        )
    assert bench.stdout is not None
    try:
        line = bench.stdout.readline().split()
        assert line, (tmp_path / "errors").read_text()
        pids, folder = [int(line[0]), int(line[1])], Path(line[2])
        assert all(map(_runs, pids))
        os.kill(bench.pid, how)
        assert bench.wait(60) != 0
        deadline_s = time.monotonic() + 30
        while left := [pid for pid in pids if _runs(pid)]:
            assert time.monotonic() < deadline_s, f"still there: {left}"
            time.sleep(0.05)
        if how is signal.SIGTERM:
            assert not folder.exists()
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        bench.kill()
        bench.wait()
        bench.stdout.close()
