"""Placement without a scheduler against one, in simulation, on a trace, and its cost to an agent.

Owns: which runs there are, and the limits. The model is printed with the results; every load, rival and figure
is in a module of its own:

======= ==========================================================================
model   who hears of what when
loads   clusters and streams of VMs; traces
truth   loads and figures of quality
crowd   the baselines
ranked  nodes that choose alone, with the board that is shipped
cost    CPU and memory of one agent's view
plots   docs/lab/plots
pages   tables in docs/lab/placement.md
======= ==========================================================================
"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

from bench.harness import RESULTS, TOP, Result, Row, say
from bench.placement import cost, crowd, plots
from bench.placement.loads import Load, bursts, read_machines, read_tasks, replay, steady
from bench.placement.model import Model
from bench.placement.runs import SEED, Runs
from bench.placement.truth import quality

NODES = (128, 512, 2048)
AIMS = ("pack", "spread")
ALGORITHMS = ("central", "ranked", *crowd.KINDS)
VMS = {50: 1000, 400: 2000, 0: 3000}
"""VMs of a run, by how many come a second; 0: bursts."""
DEAF_PERCENT = 5.0
SEEDS = (2, 3, 4, 5)
"""Of the nearest thing to a miss: is one lucky?"""
TRACE_PER_S = 50.0

FAILED_LIMIT = 0.02
P99_LIMIT_MS = 100.0
LOST_QUALITY_LIMIT = 0.01
DEAF_FACTOR = 2.0


def run(runs: int | None = None, *, nodes_file: str = "", trace: str = "") -> Result:
    """``runs``: how often each cost is measured. Without a trace that part is left out, and said so."""
    model, found = Model(), Runs(RESULTS / "placement-unfinished.json")
    say("  model: " + ", ".join(f"{name} {value}" for name, value in model.told().items()))
    rows: list[Row] = []
    simulated = _simulation(model, found, rows)
    deaf = _deaf(model, found, rows)
    checks = _checks(model, found, rows)
    traced: dict[str, Any] = {}
    if nodes_file and trace:
        traced = _trace(Path(nodes_file), Path(trace), model, found, rows)
    else:
        say("  no --nodes-file and --trace: the trace is left out")
    costs = cost.measure(rows, runs)
    document = {
        "model": model.told(),
        "algorithms": _by_algorithm(traced),
        "trace": traced,
        "simulation": simulated,
        "deaf": deaf,
        "checks": checks,
        "cost": costs,
    }
    plots.draw(TOP / "docs" / "lab" / "plots", document)
    found.done()
    return Result(rows=rows, raw=document, document=document)


def _by_algorithm(traced: dict[str, Any]) -> dict[str, Any]:
    """The plain replay: figures by algorithm for packing, and by algorithm and aim for the rest."""
    return {
        algorithm if replayed == "pack" else f"{algorithm}, {replayed}": figures
        for replayed, one in traced.items()
        for algorithm, figures in one["algorithms"].items()
    }


def _row(
    name: str, unit: str, n: int, value: float, *, limit: float | None, baseline: float | None = None
) -> Row:
    kept = limit is None or value <= limit
    return Row(
        name=name, unit=unit, n=n, p50=round(value, 5), p95=round(value, 5), baseline_p50=baseline,
        baseline_p95=baseline, limit=limit, ok=kept,
    )  # fmt: skip


def _simulated_load(nodes: int, per_s: int, aim: str) -> Load:
    if not per_s:
        return bursts(nodes, VMS[0], aim)
    return steady(nodes, per_s, VMS[per_s], aim)


def _simulation(model: Model, found: Runs, rows: list[Row]) -> list[dict[str, Any]]:
    """Every load, every algorithm."""
    told = []
    for nodes in NODES:
        for per_s in VMS:
            for aim in AIMS:
                load = _simulated_load(nodes, per_s, aim)
                algorithms = {
                    name: dict(found.run(name, load, model, aim))
                    for name in ("central", "ranked", *crowd.KINDS)
                }
                _judge(f"{load.name}, {aim}", algorithms, aim, rows)
                told.append(
                    {
                        "load": load.name,
                        "nodes": nodes,
                        "vms_per_s": per_s,
                        "aim": aim,
                        "algorithms": algorithms,
                    }
                )
    return told


def _judge(name: str, algorithms: dict[str, dict[str, Any]], aim: str, rows: list[Row]) -> None:
    """Quality of each, and what the issue asks of ours."""
    central, ours = algorithms["central"], algorithms["ranked"]
    for one in algorithms.values():
        one["quality_vs_central"] = quality(one, central, aim)
    n = ours["placed"]
    rivals = [algorithms[kind]["failed_claims_per_vm"] for kind in crowd.KINDS]
    failed = ours["failed_claims_per_vm"]
    rows.append(_row(f"{name}: failed claims", "1/VM", n, failed, limit=FAILED_LIMIT, baseline=min(rivals)))
    base = central["claim_p99_ms"]
    rows.append(_row(f"{name}: claim p99", "ms", n, ours["claim_p99_ms"], limit=P99_LIMIT_MS, baseline=base))
    more = float(ours["rejected"] - central["rejected"])
    rows.append(_row(f"{name}: rejected above central", "VMs", n, more, limit=0.0))
    lost = 1.0 if ours["quality_vs_central"] is None else 1.0 - ours["quality_vs_central"]
    rows.append(_row(f"{name}: quality lost", "1", n, max(0.0, lost), limit=LOST_QUALITY_LIMIT))
    if aim == "pack":
        stranded = ours["stranded_memory"] - central["stranded_memory"]
        rows.append(_row(f"{name}: stranded memory above central", "1", n, stranded, limit=LOST_QUALITY_LIMIT))


def _deaf(model: Model, found: Runs, rows: list[Row]) -> list[dict[str, Any]]:
    """Nodes that are alive and never claim. A p99 of 1,000 VMs rests on ten of them, and on which node hears
    late in which second: so it is that of five runs together, and that of the first is told beside it."""
    told = []
    for nodes, per_s in product(NODES, VMS):
        for aim in AIMS:
            load = _simulated_load(nodes, per_s, aim)
            none = found.pooled(load, model, aim, (SEED, *SEEDS))
            some = found.pooled(load, replace(model, deaf_percent=DEAF_PERCENT), aim, (SEED, *SEEDS))
            name, base = f"{load.name}, {aim}, {DEAF_PERCENT:g} % deaf: claim p99", none["claim_p99_ms"]
            limit = DEAF_FACTOR * base
            rows.append(_row(name, "ms", some["placed"], some["claim_p99_ms"], limit=limit, baseline=base))
            told.append({"load": load.name, "nodes": nodes, "aim": aim, "without": none, "with": some})
    return told


def _checks(model: Model, found: Runs, rows: list[Row]) -> dict[str, Any]:
    """Does the simulation's own economy change the result; do harder assumptions; told, not limited."""
    load = _simulated_load(128, 50, "pack")
    begun = f"{load.name}, pack"
    told = {
        f"{begun}, shared boards": found.run("ranked", load, model, "pack"),
        f"{begun}, a board each": found.run("ranked, a board each", load, model, "pack"),
        f"{begun}, a delay for each message": found.run(
            "ranked", load, replace(model, watch_spell_s=0.0), "pack"
        ),
        f"{begun}, one delay for ever": found.run("ranked", load, replace(model, watch_spell_s=1e9), "pack"),
        f"{begun}, nobody publishes its lag": found.run(
            "ranked", load, replace(model, lag_published=False), "pack"
        ),
    }
    load = _simulated_load(128, 400, "spread")
    for name, algorithm in (("shared boards", "ranked"), ("a board each", "ranked, a board each")):
        told[f"{load.name}, spread, {name}"] = found.run(algorithm, load, model, "spread")
    for aim, seed in product(AIMS, SEEDS):
        load = _simulated_load(128, 400, aim)
        central = found.run("central", load, model, aim, seed)
        ours = dict(found.run("ranked", load, model, aim, seed))
        ours["quality_vs_central"] = quality(ours, central, aim)
        told[f"{load.name}, {aim}, seed {seed}"] = ours
    for name, one in told.items():
        failed = one["failed_claims_per_vm"]
        rows.append(_row(f"{name}: failed claims", "1/VM", one["placed"], failed, limit=None))
    return told


def _trace(nodes_file: Path, trace: Path, model: Model, found: Runs, rows: list[Row]) -> dict[str, Any]:
    """The replay: as it was, and with nothing deleted before all is created."""
    machines, tasks = read_machines(nodes_file), read_tasks(trace)
    told: dict[str, Any] = {}
    for kept in (False, True):
        jobs = replay(tasks, TRACE_PER_S, keep=kept)
        for aim in AIMS:
            name = f"{aim}, deletions last" if kept else aim
            load = Load(name=f"trace, {name}", machines=machines, jobs=jobs)
            algorithms = {one: dict(found.run(one, load, model, aim)) for one in ALGORITHMS}
            _judge(load.name, algorithms, aim, rows)
            told[name] = {
                "nodes": len(machines), "tasks": len(tasks), "vms_per_s": TRACE_PER_S, "aim": aim,
                "algorithms": algorithms,
            }  # fmt: skip
    return told
