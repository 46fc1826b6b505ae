"""``metastack dev chaos`` as a person runs it: its rounds, its record, and that nothing is left running."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from metastack.lab.dev import proc

pytestmark = [pytest.mark.proof, pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]

CHAOS = (sys.executable, "-m", "metastack.cli.main", "dev", "chaos")


def nothing_left(said: str) -> None:
    found = re.search(r"the cluster lives in (\S+);", said)
    assert found is not None, said
    home = Path(found[1])
    assert not home.exists()
    assert proc.marked(home / "s" / "c") == []
    assert str(home) not in Path("/proc/self/mountinfo").read_text()


def test_two_rounds(tmp_path: Path) -> None:
    results = tmp_path / "chaos.jsonl"
    kinds = ("--kind", "cut-from-etcd", "--kind", "power-cut", "--kind", "etcd-leader-killed")
    done = subprocess.run(
        [*CHAOS, "--rounds", "2", "--seed", "5", "--vms", "2", *kinds, "--append", str(results), "-o", "json"],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    print(done.stderr)
    assert done.returncode == 0, done.stdout
    *rounds, summary = (json.loads(line) for line in done.stdout.splitlines())
    assert [one["number"] for one in rounds] == [1, 2]
    assert json.loads(results.read_text()) == summary
    assert (summary["seed"], summary["rounds"], summary["violations"]) == (5, 2, [])
    assert summary["overlaps"] == summary["lost_acknowledged_writes"] == 0
    assert summary["acknowledged_writes"] > 10
    assert set(summary["faults"]) <= {"cut-from-etcd", "power-cut", "etcd-leader-killed"}
    nothing_left(done.stderr)


def test_interrupted_by_a_person(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with (
        said.open("w") as out,
        subprocess.Popen(
            [*CHAOS, "--minutes", "9", "--vms", "1"],
            stdout=out,
            stderr=out,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            start_new_session=True,
        ) as process,
    ):
        deadline = time.monotonic() + 150
        while "hosts with libvirtd" not in said.read_text():
            assert process.poll() is None and time.monotonic() < deadline, said.read_text()
            time.sleep(0.1)
        # As the terminal does it: everybody in the group hears it.
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(60) == 130, said.read_text()
    nothing_left(said.read_text())
