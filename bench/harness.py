"""What every measurement shares: rows, percentiles, the raw record, the verdict.

Owns: the shape of a result. Refuses: measuring anything itself.
Rule: a figure is kept with the command, the commit and the machine that made it; a limit is held against p95.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from math import ceil
from pathlib import Path
from typing import Any

TOP = Path(__file__).parents[1]
RESULTS = TOP / "bench" / "results"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the result; unknown is None."""

    name: str
    unit: str
    n: int
    p50: float
    p95: float
    baseline_p50: float | None = None
    baseline_p95: float | None = None
    limit: float | None = None
    """Highest p95 that is all right; None: only told."""
    ok: bool = True


@dataclass(kw_only=True)
class Result:
    """What a bench returns: rows, and everything that was measured."""

    rows: list[Row]
    raw: dict[str, Any] = field(default_factory=dict)
    """Every single sample, by name, and whatever explains them."""
    document: dict[str, Any] = field(default_factory=dict)
    """What ``--json`` writes beside the rows when only this bench was asked for."""


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that so many percent of all do not exceed (nearest rank)."""
    if not samples:
        raise ValueError("nothing was measured")
    ordered = sorted(samples)
    return ordered[max(0, ceil(len(ordered) * percent / 100) - 1)]


def row(
    name: str,
    unit: str,
    samples: Sequence[float],
    *,
    baseline: Sequence[float] = (),
    limit: float | None = None,
    above_baseline: float | None = None,
) -> Row:
    """A row from samples. ``above_baseline``: the limit is the baseline's p95 and so much more."""
    base50, base95 = (percentile(baseline, 50), percentile(baseline, 95)) if baseline else (None, None)
    if above_baseline is not None:
        if base95 is None:
            raise ValueError(f"{name}: a limit above the baseline needs a baseline")
        limit = base95 + above_baseline
    p95 = percentile(samples, 95)

    def short(value: float | None) -> float | None:
        return None if value is None else round(value, 4)

    return Row(
        name=name,
        unit=unit,
        n=len(samples),
        p50=round(percentile(samples, 50), 4),
        p95=round(p95, 4),
        baseline_p50=short(base50),
        baseline_p95=short(base95),
        limit=short(limit),
        ok=limit is None or p95 <= limit,
    )


def table(rows: Sequence[Row]) -> str:
    """Rows for a person."""
    head = ("name", "unit", "n", "p50", "p95", "base p50", "base p95", "limit", "")
    lines: list[tuple[str, ...]] = [head]
    for one in rows:
        cells = (one.p50, one.p95, one.baseline_p50, one.baseline_p95, one.limit)
        told = tuple("-" if cell is None else f"{cell:.3f}" for cell in cells)
        lines.append((one.name, one.unit, str(one.n), *told, "ok" if one.ok else "MISSED"))
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    return "\n".join(
        "  ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=TOP, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def commit() -> str | None:
    """What is checked out."""
    return _git("rev-parse", "HEAD") or None


def keep(name: str, result: Result, command: Sequence[str], folder: Path = RESULTS) -> Path:
    """Write the raw record of one bench; its path."""
    now = datetime.now(UTC)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{now:%Y%m%dT%H%M%SZ}.json"
    record = {
        "name": name,
        "date": now.isoformat(timespec="seconds").replace("+00:00", "Z"),
        "command": list(command),
        "commit": commit(),
        # Results and pictures of runs are no change of what is measured.
        "uncommitted_changes": bool(
            _git("status", "--porcelain", "--", ".", ":!bench/results", ":!docs/lab/plots")
        ),
        "machine": {
            "cpus": os.cpu_count(),
            "kernel": platform.release(),
            "python": platform.python_version(),
            "load_before": getattr(os, "getloadavg", lambda: None)(),
        },
        "rows": [asdict(one) for one in result.rows],
        "raw": result.raw,
    }
    path.write_text(json.dumps(record, indent=1) + "\n")
    return path


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)
