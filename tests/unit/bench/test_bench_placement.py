"""The placement bench: its model, its loads, its rivals and its figures, on clusters of a dozen nodes."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

# The benches are no part of the package: they are found from the checkout's top.
sys.path.insert(0, str(Path(__file__).parents[3]))

from bench import __main__ as entry
from bench import placement
from bench.harness import Row
from bench.placement import cost, crowd, loads, pages, plots
from bench.placement.model import Model, Stream
from bench.placement.ranked import ranked
from bench.placement.runs import Runs
from bench.placement.truth import Job, Machine, Truth, quality

DATA = Path(__file__).parents[2] / "data"
NODES, TASKS = DATA / "placement-nodes.csv", DATA / "placement-tasks.csv"
CALM = Model(lagging_one_in=0)


def test_a_stream_keeps_order_and_modelled_delay() -> None:
    model = Model(lagging_one_in=100)
    stream = Stream(model, 2000, seed=1)
    sent = [stream.send(n * 0.5) for n in range(20)]
    for before, after in pairwise(sent):
        assert (after.arrived >= before.arrived).all() and (after.done > before.done).all()
    prompt = [n for n in range(2000) if n not in stream.lagging]
    late_ms = np.concatenate([(one.arrived[prompt] - one.at) * 1000 for one in sent])
    assert 2.5 < np.percentile(late_ms, 50) < 3.5
    assert 25 < np.percentile(late_ms, 99) < 35
    assert len(stream.lagging) == 20
    assert all((one.arrived[list(stream.lagging)] - one.at > 0.25).all() for one in sent)


def test_an_agent_is_busy_for_as_long_as_events_wait() -> None:
    stream = Stream(CALM, 4, seed=1)
    last = [stream.send(0.0) for _ in range(10)][-1]
    first_ms = 1000 * float(last.arrived[2])
    assert stream.busy_until(2, first_ms / 1000) == pytest.approx(first_ms / 1000 + 10 * CALM.agent_cpu_s)
    assert stream.busy_until(2, 0.0) <= 0.0


def test_the_excerpt_is_read_by_path() -> None:
    machines, jobs = loads.read_machines(NODES), loads.read_tasks(TASKS)
    assert len(machines) == 12 and len(jobs) == 120
    assert [job.created_s for job in jobs] == sorted(job.created_s for job in jobs)
    assert sum(1 for job in jobs if job.deleted_s is None) == 3


def test_a_file_of_another_format_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other.csv"
    other.write_text("sn,cpus\na,1\n")
    with pytest.raises(ValueError, match=r"other.csv: line 1: no column cpu_milli, memory_mib"):
        loads.read_machines(other)
    other.write_text("sn,cpu_milli,memory_mib\n")
    with pytest.raises(ValueError, match="holds no line"):
        loads.read_machines(other)


@pytest.mark.parametrize("keep", [False, True])
def test_a_replay_keeps_the_order_of_the_trace(keep: bool) -> None:
    tasks = loads.read_tasks(TASKS)
    jobs = loads.replay(tasks, 50.0, keep=keep)
    assert [job.created_s for job in jobs] == sorted(job.created_s for job in jobs)
    assert all(job.deleted_s is None or job.deleted_s > job.created_s for job in jobs)
    in_trace = sorted((t.deleted_s, t.name) for t in tasks if t.deleted_s is not None)
    replayed = sorted((j.deleted_s, j.name) for j in jobs if j.deleted_s is not None)
    assert [name for at, name in replayed] == [
        name for at, name in sorted(in_trace, key=lambda one: (one[0], [t.name for t in tasks].index(one[1])))
    ]
    rate = len(jobs) / (jobs[-1].created_s - jobs[0].created_s)
    assert 30 < rate < 80
    if keep:
        assert min(at for at, _ in replayed) > jobs[-1].created_s


@pytest.mark.parametrize("aim", ["pack", "spread"])
def test_independent_nodes_place_as_well_as_a_central_scheduler(aim: str) -> None:
    machines, jobs = loads.read_machines(NODES), loads.replay(loads.read_tasks(TASKS), 50.0)
    score, truth = crowd.central(machines, jobs, CALM, aim, 1)
    best = score.told(truth)
    score, truth = ranked(machines, jobs, CALM, aim, 1)
    ours = score.told(truth)
    assert (ours["placed"], ours["rejected"]) == (best["placed"], best["rejected"]) == (120, 0)
    assert ours["failed_claims_per_vm"] < 0.1
    found = quality(ours, best, aim)
    assert found is not None and found > 0.95
    again, same = ranked(machines, jobs, CALM, aim, 1)
    assert again.told(same) == ours


def test_a_board_each_and_shared_boards_tell_the_same() -> None:
    load = loads.steady(12, 50, 60, "pack")
    one, _ = ranked(load.machines, load.jobs, CALM, "pack", 1)
    each, _ = ranked(load.machines, load.jobs, CALM, "pack", 1, own=12)
    assert one.placed == each.placed == 60
    assert abs(one.failed - each.failed) <= 2
    assert abs(sum(one.waits_ms) - sum(each.waits_ms)) / sum(one.waits_ms) < 0.3


@pytest.mark.parametrize("kind", crowd.KINDS)
def test_every_crowd_places_all_and_pays_for_it(kind: str) -> None:
    load = loads.steady(24, 50, 120, "pack")
    ours, _ = ranked(load.machines, load.jobs, CALM, "pack", 1)
    theirs, _ = crowd.crowd(kind, load.machines, load.jobs, CALM, "pack", 1)
    assert ours.placed == theirs.placed == 120
    assert theirs.failed > ours.failed


def full(aim: str) -> tuple[tuple[Machine, ...], tuple[Job, ...]]:
    """Room for four; the fifth and sixth come early, and one of them gives up before there is room."""
    machines = (Machine("a", 2, 4096), Machine("b", 2, 4096))
    jobs = [Job(f"j{n}", 1, 1024, created_s=n * 0.5, deleted_s=5.0 if n == 0 else None) for n in range(4)]
    jobs.append(Job("waits", 1, 1024, created_s=2.5))
    jobs.append(Job("gives-up", 1, 1024, created_s=3.0, deleted_s=4.0))
    return machines, tuple(jobs)


@pytest.mark.parametrize("kind", ["central", "ranked", *crowd.KINDS])
def test_a_vm_without_capacity_waits_until_deleted(kind: str) -> None:
    machines, jobs = full("pack")
    if kind == "central":
        score, truth = crowd.central(machines, jobs, CALM, "pack", 1)
    elif kind == "ranked":
        score, truth = ranked(machines, jobs, CALM, "pack", 1)
    else:
        score, truth = crowd.crowd(kind, machines, jobs, CALM, "pack", 1)
    assert (score.placed, score.rejected) == (5, 1)
    assert list(truth.cpus) == [2, 2]


def test_deaf_nodes_take_nothing_and_stop_nobody() -> None:
    load = loads.steady(24, 50, 120, "spread")
    model = replace(CALM, deaf_percent=10.0)
    deaf = Stream(model, 24, 1).deaf
    score, truth = ranked(load.machines, load.jobs, model, "spread", 1)
    assert score.placed == 120 and len(deaf) == 2
    before = Truth(load.machines, 1)
    for job in load.jobs:
        if job.node >= 0:
            before.change(job, job.node, 0.0, 1)
    assert all(truth.vms[node] <= before.vms[node] for node in deaf)


def test_quality() -> None:
    central = {"rejected": 1, "empty_nodes": 10.0, "utilisation_stdev": 0.10}
    assert quality({**central, "empty_nodes": 9.0}, central, "pack") == 0.9
    assert quality({**central, "utilisation_stdev": 0.13}, central, "spread") == 0.97
    assert quality({**central, "utilisation_stdev": 0.01}, central, "spread") == 1.0
    assert quality({**central, "rejected": 2}, central, "pack") is None


def test_a_finished_run_is_not_made_again(tmp_path: Path) -> None:
    path, made = tmp_path / "unfinished.json", []

    def make() -> int:
        made.append(1)
        return 7

    assert Runs(path).get(("a", 1), make) == Runs(path).get(("a", 1), make) == 7
    assert Runs(path).get(("a", 2), make) == 7
    assert len(made) == 2
    Runs(path).done()
    assert not path.exists()


def test_the_trace_tells_every_figure_of_every_algorithm(tmp_path: Path) -> None:
    rows: list[Row] = []
    told = placement._trace(NODES, TASKS, CALM, Runs(tmp_path / "runs.json"), rows)
    algorithms = placement._by_algorithm(told)
    for name in ("central", "ranked", *crowd.KINDS):
        assert algorithms[name].keys() >= {
            "placed", "rejected", "failed_claims_per_vm", "claim_p50_ms", "claim_p99_ms", "empty_nodes",
            "stranded_memory", "utilisation_stdev", "quality_vs_central",
        }  # fmt: skip
    assert any("trace, spread, deletions last: quality lost" in row.name for row in rows)
    document = {"simulation": [], "trace": told}
    folder = tmp_path / "plots"
    folder.mkdir()
    plots._trace(folder / "trace.svg", document)
    assert "<svg" in (folder / "trace.svg").read_text()


def test_the_cost_is_measured_on_worlds_like_real_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "VMS", 300)
    monkeypatch.setattr(cost, "MEASURED", 100)
    monkeypatch.setattr(cost, "NODES", (20,))
    rows: list[Row] = []
    told = cost.measure(rows, 1)
    assert told["cpu_us_20_nodes"]["spec"]["n"] == 100
    assert told["view_bytes_per_vm"] > 0
    assert len(rows) == len(cost.KINDS) + 1


def test_a_trace_needs_its_nodes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        entry.main(["placement", "--trace", str(TASKS)])
    assert raised.value.code == 2
    assert "go together" in capsys.readouterr().err


def test_the_page_tells_the_figures_of_its_record() -> None:
    page = pages.PAGE.read_text()
    name = re.findall(r"<!-- figures of (\S+) -->", page)
    assert len(name) == 1 and (pages.RESULTS / name[0]).exists(), (
        "python -m bench.placement.pages RECORD makes it"
    )
    record = json.loads((pages.RESULTS / name[0]).read_text())
    assert pages.filled(page, name[0], record) == page
    # A miss is never hidden: as many are told as the record has.
    missed = [row["name"] for row in record["rows"] if not row["ok"]]
    told = page.count(pages.MISSED.strip()) + len(re.findall(r"\*\*\d+ missed\*\*", page))
    assert told >= len(missed), missed
