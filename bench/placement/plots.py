"""Pictures of the figures, for docs/lab/placement.md. Owns: docs/lab/plots/placement-*.svg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot

NAMES = {
    "ranked": "MetaStack",
    "central": "central, omniscient",
    "own": "own state exact",
    "jitter": "random jitter",
    "everyone": "everyone at once",
}
COLOURS = {
    "ranked": "#1b6ac9", "central": "#444444", "own": "#2a9d5c", "jitter": "#e0a020", "everyone": "#c0392b",
}  # fmt: skip
LOADS = {50: "50 VM/s", 400: "400 VM/s", 0: "bursts of 500"}


def draw(folder: Path, document: dict[str, Any]) -> None:
    """All of them."""
    folder.mkdir(parents=True, exist_ok=True)
    # The same figures give the same file.
    with pyplot.rc_context({"svg.hashsalt": "metastack", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        _by_size(folder / "placement-failed.svg", document, "failed_claims_per_vm", "failed claims a VM", 0.02)
        _by_size(folder / "placement-p99.svg", document, "claim_p99_ms", "wish to claim, p99, ms", 100.0)
        _quality(folder / "placement-quality.svg", document)
        _deaf(folder / "placement-deaf.svg", document["deaf"])
        if document["trace"]:
            _trace(folder / "placement-trace.svg", document)


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    # Trailing blanks are no part of the picture.
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def _by_size(path: Path, document: dict[str, Any], field: str, label: str, limit: float) -> None:
    figure, axes = pyplot.subplots(1, len(LOADS), figsize=(10, 3.4), sharey=True)
    for axis, (per_s, title) in zip(axes, LOADS.items(), strict=True):
        for kind, name in NAMES.items():
            runs = [one for one in document["simulation"] if one["vms_per_s"] == per_s and one["aim"] == "pack"]
            nodes = [one["nodes"] for one in runs]
            # A logarithmic axis has no zero.
            values = [max(one["algorithms"][kind][field], 1e-4) for one in runs]
            if field == "failed_claims_per_vm" and kind == "central":
                continue
            axis.plot(nodes, values, marker="o", label=name, color=COLOURS[kind])
        axis.axhline(limit, linestyle="--", linewidth=0.8, color="black")
        axis.set_xscale("log", base=2)
        axis.set_xticks(nodes, [str(n) for n in nodes])
        axis.set_yscale("log")
        axis.set_title(title)
        axis.set_xlabel("nodes")
    axes[0].set_ylabel(label)
    axes[-1].legend(fontsize=7)
    _save(figure, path)


def _quality(path: Path, document: dict[str, Any]) -> None:
    figure, axes = pyplot.subplots(1, 2, figsize=(10, 3.2), sharey=True)
    for axis, aim in zip(axes, ("pack", "spread"), strict=True):
        runs = [one for one in document["simulation"] if one["aim"] == aim]
        _bars(axis, [one["load"].replace(" nodes, ", "\n") for one in runs], runs)
        axis.set_title(f"{aim}: quality against central")
        axis.tick_params(axis="x", labelsize=6, rotation=45)
    axes[-1].legend(fontsize=7, loc="lower right")
    _save(figure, path)


def _deaf(path: Path, runs: list[dict[str, Any]]) -> None:
    figure, axis = pyplot.subplots(figsize=(10, 3.2))
    places = range(len(runs))
    for at, (which, name, colour) in enumerate(
        (("without", "all well", "#1b6ac9"), ("with", "5 % deaf", "#c0392b"))
    ):
        values = [one[which]["claim_p99_ms"] for one in runs]
        axis.bar([n + (at - 0.5) * 0.35 for n in places], values, 0.35, label=name, color=colour)
    for n, one in enumerate(runs):
        twice = 2 * one["without"]["claim_p99_ms"]
        axis.plot([n - 0.4, n + 0.4], [twice, twice], color="black", linestyle="--", linewidth=0.8)
    axis.set_xticks(places, [f"{one['load']}\n{one['aim']}".replace(" nodes, ", "\n") for one in runs])
    axis.tick_params(axis="x", labelsize=5)
    axis.set_title("wish to claim, p99, ms; dashed: twice what it is when all are well")
    axis.legend(fontsize=7)
    _save(figure, path)


def _trace(path: Path, document: dict[str, Any]) -> None:
    figure, axis = pyplot.subplots(figsize=(7, 3.2))
    _bars(axis, list(document["trace"]), list(document["trace"].values()))
    axis.set_title("replay of the trace: quality against central")
    axis.legend(fontsize=7, loc="lower right")
    _save(figure, path)


def _bars(axis: Any, labels: list[str], runs: list[dict[str, Any]]) -> None:
    kinds = [kind for kind in NAMES if kind != "central"]
    for at, kind in enumerate(kinds):
        values = [one["algorithms"][kind]["quality_vs_central"] or 0.0 for one in runs]
        places = [n + (at - 1.5) * 0.2 for n in range(len(runs))]
        axis.bar(places, values, 0.2, label=NAMES[kind], color=COLOURS[kind])
    axis.axhline(0.99, linestyle="--", linewidth=0.8, color="black")
    axis.set_xticks(range(len(runs)), labels)
