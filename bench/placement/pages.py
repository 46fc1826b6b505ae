"""The figures of a record as tables in docs/lab/placement.md, and its plots.

Owns: the part of that page between its two marks. Refuses: measuring; rounding a miss away.
Rule: whatever a limit is held against says **missed** when it is; a test makes the part again from its record.

    .venv/bin/python -m bench.placement.pages bench/results/placement-….json
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from bench import placement
from bench.harness import RESULTS, TOP
from bench.placement import cost, crowd, plots

__all__ = ["PAGE", "RESULTS", "figures", "filled", "main"]

PAGE = TOP / "docs" / "lab" / "placement.md"
BEGIN, END = "<!-- figures of {} -->", "<!-- end of figures -->"
MISSED = " **missed**"
Algorithms = dict[str, dict[str, Any]]


def figures(name: str, record: dict[str, Any]) -> str:
    """The part of the page, marks included."""
    raw = record["raw"]
    parts = [
        BEGIN.format(name),
        f"Record: `bench/results/{name}`, commit `{record['commit'][:7]}`, {record['date'][:10]},"
        f" `{' '.join(record['command'])}`.",
        "### Against the limits",
        _limits(raw),
        "### Every load",
        _simulation(raw["simulation"]),
        "### Rivals",
        _rivals(raw["simulation"]),
    ]
    if raw["trace"]:
        parts += ["### The trace", _trace(raw["trace"])]
    parts += ["### Deaf nodes, 5 %", _deaf(raw["deaf"])]
    parts += ["### Is it luck, or the simulation's own economy?", _checks(raw["checks"])]
    parts += ["### What it costs an agent", _cost(raw["cost"]), END]
    return "\n\n".join(parts)


def _table(head: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def _short(value: float | None, digits: int = 4) -> str:
    if value is None:
        return "–"
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{digits}f}"


def _kept(value: float | None, limit: float, digits: int, *, least: bool = False) -> str:
    """The figure, and whether it misses."""
    kept = value is not None and (value >= limit if least else value <= limit)
    return _short(value, digits) + ("" if kept else MISSED)


def _limits(raw: dict[str, Any]) -> str:
    every = raw["simulation"] + list(raw["trace"].values())
    of: Callable[[str], list[float]] = lambda field: [one["algorithms"]["ranked"][field] for one in every]  # noqa: E731
    excess = [
        one["algorithms"]["ranked"]["stranded_memory"] - one["algorithms"]["central"]["stranded_memory"]
        for one in every
        if one["aim"] == "pack"
    ]
    ratios = [one["with"]["claim_p99_ms"] / one["without"]["claim_p99_ms"] for one in raw["deaf"]]
    rejected = [
        one["algorithms"]["ranked"]["rejected"] - one["algorithms"]["central"]["rejected"] for one in every
    ]
    worst_quality = [value if value is not None else 0.0 for value in of("quality_vs_central")]
    lines = [
        ("failed claims a VM", "≤ 0.02", of("failed_claims_per_vm"), placement.FAILED_LIMIT, False, 4),
        ("VMs rejected above central's", "0", rejected, 0.0, False, 0),
        ("wish to claim, p99, ms", "≤ 100", of("claim_p99_ms"), placement.P99_LIMIT_MS, False, 0),
        ("quality of central's", "≥ 0.99", worst_quality, 1 - placement.LOST_QUALITY_LIMIT, True, 4),
        ("stranded memory above central's", "≤ 0.01", excess, placement.LOST_QUALITY_LIMIT, False, 4),
        ("p99 with deaf nodes / without", "≤ 2", ratios, placement.DEAF_FACTOR, False, 2),
    ]
    told = []
    for name, limit, values, bound, least, digits in lines:
        missing = sum(value < bound if least else value > bound for value in values)
        worst = min(values) if least else max(values)
        verdict = f"**{missing} missed**" if missing else "kept"
        told.append((name, limit, f"{worst:.{digits}f}", f"{len(values)} loads", verdict))
    return _table(("figure", "limit", "worst", "of", ""), told)


def _simulation(runs: list[dict[str, Any]]) -> str:
    lines = []
    for one in runs:
        ours, central = one["algorithms"]["ranked"], one["algorithms"]["central"]
        stranded = ours["stranded_memory"] - central["stranded_memory"]
        lines.append(
            (
                one["load"], one["aim"], f"{ours['placed']} / {ours['rejected']}",
                _kept(ours["failed_claims_per_vm"], placement.FAILED_LIMIT, 4), _short(ours["claim_p50_ms"], 1),
                _kept(ours["claim_p99_ms"], placement.P99_LIMIT_MS, 1), _short(ours["claim_max_ms"], 0),
                _kept(ours["quality_vs_central"], 1 - placement.LOST_QUALITY_LIMIT, 4, least=True),
                _kept(stranded, placement.LOST_QUALITY_LIMIT, 4) if one["aim"] == "pack" else "",
            )
        )  # fmt: skip
    head = (
        "load", "aim", "placed / rejected", "failed a VM", "p50, ms", "p99, ms", "longest, ms", "quality",
        "stranded above central",
    )  # fmt: skip
    return _table(head, lines)


def _rivals(runs: list[dict[str, Any]]) -> str:
    def of(one: dict[str, Any], field: str, digits: int, *first: str) -> str:
        return " / ".join(_short(one["algorithms"][kind][field], digits) for kind in (*first, *crowd.KINDS))

    lines = [
        (
            one["load"], one["aim"], of(one, "failed_claims_per_vm", 2), of(one, "claim_p99_ms", 0, "central"),
            of(one, "quality_vs_central", 2),
        )
        for one in runs
    ]  # fmt: skip
    kinds = " / ".join(crowd.KINDS)
    return _table(
        ("load", "aim", f"failed a VM: {kinds}", f"p99, ms: central / {kinds}", f"quality: {kinds}"), lines
    )


def _trace(traced: dict[str, Any]) -> str:
    lines = []
    for replayed, one in traced.items():
        for kind, figure in one["algorithms"].items():
            ours = kind == "ranked"
            failed, p99, good = (
                figure[field] for field in ("failed_claims_per_vm", "claim_p99_ms", "quality_vs_central")
            )
            lines.append(
                (
                    replayed, plots.NAMES[kind], f"{figure['placed']} / {figure['rejected']}",
                    _kept(failed, placement.FAILED_LIMIT, 4) if ours else _short(failed, 2),
                    _short(figure["claim_p50_ms"], 1),
                    _kept(p99, placement.P99_LIMIT_MS, 1) if ours else _short(p99, 1),
                    _short(figure["empty_nodes"], 1), _short(figure["stranded_memory"], 4),
                    _short(figure["utilisation_stdev"], 4),
                    _kept(good, 1 - placement.LOST_QUALITY_LIMIT, 4, least=True) if ours else _short(good, 4),
                )
            )  # fmt: skip
    head = (
        "replay", "algorithm", "placed / rejected", "failed a VM", "p50, ms", "p99, ms", "empty nodes",
        "stranded memory", "deviation", "quality",
    )  # fmt: skip
    return _table(head, lines)


def _deaf(runs: list[dict[str, Any]]) -> str:
    lines = []
    for one in runs:
        none, some = one["without"], one["with"]
        ratio = some["claim_p99_ms"] / none["claim_p99_ms"]
        lines.append(
            (
                one["load"], one["aim"], f"{some['placed']} / {some['rejected']}",
                _short(none["claim_p99_ms"], 1), _short(some["claim_p99_ms"], 1),
                _kept(ratio, placement.DEAF_FACTOR, 2),
                _short(_first_seed(some) / _first_seed(none), 2),
                _short(some["claim_max_ms"], 0),
                _short(some["failed_claims_per_vm"], 4),
            )
        )  # fmt: skip
    head = (
        "load", "aim", "placed / rejected", "p99 without, ms", "p99 with, ms", "ratio",
        "of the first seed alone", "longest, ms", "failed a VM",
    )  # fmt: skip
    return _table(head, lines)


def _first_seed(run: dict[str, Any]) -> float:
    found: list[float] = run.get("claim_p99_ms_by_seed", [run["claim_p99_ms"]])
    return found[0]


def _checks(told: Algorithms) -> str:
    lines = [
        (
            name, _short(one["failed_claims_per_vm"], 4), _short(one["claim_p50_ms"], 1),
            _short(one["claim_p99_ms"], 1), _short(one["claim_max_ms"], 0), _short(one["empty_nodes"], 2),
            _short(one["utilisation_stdev"], 4), _short(one.get("quality_vs_central"), 4),
        )
        for name, one in told.items()
    ]  # fmt: skip
    head = (
        "run", "failed a VM", "p50, ms", "p99, ms", "longest, ms", "empty nodes", "deviation", "quality",
    )  # fmt: skip
    return _table(head, lines)


def _cost(told: dict[str, Any]) -> str:
    lines = []
    for nodes in cost.NODES:
        for kind, one in told[f"cpu_us_{nodes}_nodes"].items():
            lines.append((f"{kind}, {nodes} nodes", _short(one["p50_us"], 1), _short(one["p95_us"], 1)))
    table = _table(("message: CPU µs to the decision, decoding included, gRPC not", "p50", "p95"), lines)
    return f"{table}\n\nMemory of a view: {told['view_bytes_per_vm']:.0f} bytes a VM."


def filled(page: str, name: str, record: dict[str, Any]) -> str:
    """The page with that record's figures."""
    before, _, rest = page.partition(BEGIN.partition("{}")[0])
    _, _, after = rest.partition(END)
    return before + figures(name, record) + after


def main(path: Path) -> None:
    record = json.loads(path.read_text())
    PAGE.write_text(filled(PAGE.read_text(), path.name, record))
    plots.draw(TOP / "docs" / "lab" / "plots", record["raw"])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
