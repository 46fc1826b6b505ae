"""Whole runs: green without a mutation, red with one, the same from the same seed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from metastack.agent.fencing import fence_check
from metastack.core import boot_gate as gate
from metastack.core.model import FenceReceipt
from metastack.lab.sim.runs.play import play
from metastack.lab.sim.runs.scenario import scenario
from metastack.lab.sim.runs.seeds import append, run
from metastack.lab.sim.runs.shrink import kinds, shrink
from metastack.lab.sim.script.schedule import schedule
from metastack.lab.sim.script.script import parse
from metastack.storage.twin import MemoryStorage

TROUBLE = """
seed 3
nodes 3
until 60
at 1 want vm1
at 1 want vm2
at 1 want vm3
at 10 cut n1 for 25
at 12 clock-jump n2 3600
at 40 crash n3 for 1
"""

REGRESSIONS = sorted((Path(__file__).parents[2] / "sim" / "regressions").glob("*.script"))


@pytest.mark.parametrize("seed", range(8))
def test_seeds_are_green(seed: int) -> None:
    report = play(schedule(seed))
    assert report.violations == []
    assert report.converged_s >= 0
    assert report.writes > 500


@pytest.mark.parametrize("path", REGRESSIONS, ids=lambda path: path.stem)
def test_what_was_found_stays_mended(path: Path) -> None:
    assert play(parse(path.read_text())).violations == []


def _no_block(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fence(self: MemoryStorage, addresses: tuple[str, ...], by: str, reason: str) -> FenceReceipt:
        place = await self.identity()
        return FenceReceipt(at="", by=by, method="nothing", addresses=addresses, storage=place)

    async def lifted(*_: object) -> dict[str, str]:
        return {}

    monkeypatch.setattr(MemoryStorage, "fence", fence)
    # Both look whether anything was blocked, and start nothing: this is about the judges.
    monkeypatch.setattr(fence_check, "lifted", lifted)
    monkeypatch.setattr(gate, "judge", lambda asked: gate.AllowBoot())


def test_a_fence_that_blocks_nothing_is_seen_as_two_writers(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_block(monkeypatch)
    assert {"two_writers", "fence"} <= kinds(play(parse(TROUBLE)).violations)


def test_a_failure_shrinks_to_what_matters(monkeypatch: pytest.MonkeyPatch) -> None:
    _no_block(monkeypatch)
    script, found = shrink(parse(TROUBLE), most_runs=60)
    assert kinds(found) & {"two_writers", "fence"}
    assert sorted(step.verb for step in script.steps) == ["cut", "want"]


@pytest.mark.parametrize("size", [(3, 6), (5, 20)])
def test_a_trace_depends_on_the_seed_alone(size: tuple[int, int]) -> None:
    nodes, vms = size
    hashes = set()
    for hash_seed in ("0", "1", "4242"):
        done = subprocess.run(
            [sys.executable, "-m", "metastack.cli.main", "sim", "run", "--seed", "11", "--seeds", "3",
             "--nodes", str(nodes), "--vms", str(vms), "-o", "json"],
            env={**os.environ, "PYTHONHASHSEED": hash_seed}, capture_output=True, timeout=200, check=True,
        )  # fmt: skip
        hashes.add(msgspec.json.decode(done.stdout)["trace_hash"])
    assert len(hashes) == 1
    assert run(11, 3, nodes=nodes, vms=vms).trace_hash in hashes


def test_processes_and_result_file_add_up(tmp_path: Path) -> None:
    one, two = run(30, 4), run(30, 4, jobs=2)
    assert (one.trace_hash, one.faults, one.virtual_hours) == (two.trace_hash, two.faults, two.virtual_hours)
    append(tmp_path / "sim.jsonl", one)
    append(tmp_path / "sim.jsonl", two)
    lines = [msgspec.json.decode(line) for line in (tmp_path / "sim.jsonl").read_text().splitlines()]
    assert [line["seeds"] for line in lines] == [4, 4]
    assert lines[0]["source"]


def test_a_scenario_compares_its_log(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(TROUBLE + "at 30 expect running vm2\n")
    assert scenario(tmp_path).difference, "no log yet"
    scenario(tmp_path, update=True)
    assert not scenario(tmp_path).difference
    log = tmp_path / "log.expect"
    assert "fenced" in log.read_text()
    log.write_text(log.read_text().replace("fenced", "spared", 1))
    assert scenario(tmp_path).difference


def test_a_wrong_expectation_is_a_violation(tmp_path: Path) -> None:
    (tmp_path / "script").write_text(TROUBLE + "at 30 expect not-running vm1\n")
    assert any("expected: not-running vm1" in line for line in scenario(tmp_path).violations)
