"""Pictures of the real-etcd figures, for docs/lab/scale.md. Owns: docs/lab/plots/scale-*.svg."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot


def draw(folder: Path, document: dict[str, Any]) -> None:
    """All of them."""
    folder.mkdir(parents=True, exist_ok=True)
    with pyplot.rc_context({"svg.hashsalt": "metastack", "font.size": 9, "axes.grid": True, "grid.alpha": 0.3}):
        _watch(folder / "scale-watch.svg", document["watch"])
        _claims(folder / "scale-claims.svg", document["claims"])
        _cpu(folder / "scale-cpu.svg", document["cpu"])


def _save(figure: Any, path: Path) -> None:
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
    path.write_text("\n".join(line.rstrip() for line in path.read_text().splitlines()) + "\n")


def _watch(path: Path, found: list[dict[str, Any]]) -> None:
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.2))
    for proxied, name, colour in ((False, "direct", "#1b6ac9"), (True, "through a proxy", "#e0a020")):
        runs = [one for one in found if one["proxied"] is proxied and one["watches_a_stream"] == 1]
        streams = [one["streams"] for one in runs]
        writes = [one["paced"]["writes"] for one in runs]
        etcd = [one["paced"]["etcd_cpu_s"] / n * 1000 for one, n in zip(runs, writes, strict=True)]
        axes[0].plot(streams, etcd, marker="o", label=f"etcd, {name}", color=colour)
        if proxied:
            proxy = [one["paced"]["proxy_cpu_s"] / n * 1000 for one, n in zip(runs, writes, strict=True)]
            axes[0].plot(streams, proxy, marker="o", linestyle=":", label="the proxy", color=colour)
        axes[1].plot(
            streams,
            [one["paced"]["delay_p99_ms"] for one in runs],
            marker="o",
            label=f"{name}, p99",
            color=colour,
        )
        axes[1].plot(
            streams, [one["paced"]["delay_p50_ms"] for one in runs], marker=".", linestyle=":",
            label=f"{name}, p50", color=colour,
        )  # fmt: skip
        axes[2].plot(
            streams, [one["burst"]["messages_per_s"] for one in runs], marker="o", label=name, color=colour
        )
    for axis, title in zip(
        axes, ("CPU for a claim, ms", "sent to delivered, ms", "messages/s, at most"), strict=True
    ):
        axis.set_title(title)
        axis.set_xlabel("streams")
        axis.set_ylim(bottom=0)
        axis.legend(fontsize=7)
    _save(figure, path)


def _claims(path: Path, found: dict[str, Any]) -> None:
    figure, axes = pyplot.subplots(1, len(found), figsize=(10, 3.2), squeeze=False)
    for axis, (count, one) in zip(axes[0], found.items(), strict=True):
        bars = {f"raw, {name}": figures["claims_per_s"] for name, figures in one["raw"].items()}
        trials = {name: told for name, told in one["agents"].items() if isinstance(told, dict)}
        bars |= {name: told["claims_per_s"] for name, told in trials.items() if "claims_per_s" in told}
        axis.barh(
            list(bars)[::-1], list(bars.values())[::-1], color=["#1b6ac9"] * (len(bars) - 2) + ["#888888"] * 2
        )
        axis.set_xscale("log")
        axis.set_title(f"{count} agents: claims/s")
    _save(figure, path)


def _cpu(path: Path, found: dict[str, Any]) -> None:
    kinds = ("wish", "claim", "status")
    figure, axes = pyplot.subplots(1, len(found), figsize=(8, 3.0), sharey=True, squeeze=False)
    for axis, (nodes, one) in zip(axes[0], found.items(), strict=True):
        axis.bar(kinds, [one[kind]["cpu_us"] for kind in kinds], color="#1b6ac9", label="an agent")
        bare = [one[kind]["bare_cpu_us"] for kind in kinds]
        axis.plot(kinds, bare, "D", color="#e0a020", label="a bare stream of gRPC's")
        axis.set_title(f"{nodes} nodes: CPU of a message, µs")
    axes[0][-1].legend(fontsize=7)
    _save(figure, path)
