"""What is really where, and how good that is: the same figures for every algorithm.

Owns: loads, the figures of quality, averages over time. Refuses: placing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.harness import percentile


@dataclass(frozen=True)
class Machine:
    """A node: its room for VMs, in the units of the jobs."""

    name: str
    cpus: float
    memory_mib: int


@dataclass(frozen=True)
class Job:
    """A VM: what it needs, when it is wanted, when it is deleted."""

    name: str
    cpus: int
    memory_mib: int
    created_s: float
    deleted_s: float | None = None
    node: int = -1
    """Where it runs already when the run begins."""


class Truth:
    """Loads of every node as etcd has them."""

    def __init__(self, machines: Sequence[Machine], smallest_cpus: float) -> None:
        self.room_cpus = np.array([m.cpus for m in machines], dtype=float)
        self.room_mib = np.array([m.memory_mib for m in machines], dtype=float)
        self.cpus, self.mib = np.zeros(len(machines)), np.zeros(len(machines))
        self.vms = np.zeros(len(machines), dtype=int)
        self.empty = len(machines)
        self._smallest_cpus = smallest_cpus
        self._at = self._measured_at = 0.0
        self._sums = np.zeros(3)
        self._now = self._figures()
        self._seconds = 0.0

    def room(self, job: Job) -> np.ndarray:
        """Which nodes have room."""
        return (self.cpus + job.cpus <= self.room_cpus) & (self.mib + job.memory_mib <= self.room_mib)

    def fits(self, job: Job, node: int, cpus: float, mib: float) -> bool:
        """Whether the node has room beside so much more."""
        return bool(
            self.cpus[node] + cpus + job.cpus <= self.room_cpus[node]
            and self.mib[node] + mib + job.memory_mib <= self.room_mib[node]
        )

    def change(self, job: Job, node: int, at: float, sign: int) -> None:
        """The VM came (1) or went (-1)."""
        self._pass(at)
        self.cpus[node] += sign * job.cpus
        self.mib[node] += sign * job.memory_mib
        before = self.vms[node]
        self.vms[node] += sign
        self.empty += int(before == 1 and sign < 0) - int(before == 0 and sign > 0)
        if self.cpus[node] > self.room_cpus[node] or self.mib[node] > self.room_mib[node]:
            raise AssertionError(f"node {node} has promised more than it has")

    def _pass(self, at: float) -> None:
        """Time goes by: the empty nodes count exactly, the other figures as of the last look 50 ms ago."""
        step = at - self._at
        if step <= 0:
            return
        self._sums += step * np.array([self.empty, *self._now[1:]])
        self._seconds += step
        self._at = at
        if at - self._measured_at > 0.05:
            self._now, self._measured_at = self._figures(), at

    def _figures(self) -> np.ndarray:
        used = np.maximum(self.cpus / self.room_cpus, self.mib / self.room_mib)
        full = self.room_cpus - self.cpus < self._smallest_cpus
        stranded = float((self.room_mib - self.mib)[full].sum()) / float(self.room_mib.sum())
        return np.array([self.empty, stranded, float(used.std())])

    def begin(self) -> None:
        """Averages begin here."""
        self._sums, self._seconds, self._now = np.zeros(3), 0.0, self._figures()

    def figures(self) -> tuple[np.ndarray, np.ndarray]:
        """(time-averaged, at the end): empty nodes, stranded memory, standard deviation of utilisation."""
        mean = self._sums / self._seconds if self._seconds else self._figures()
        return mean, self._figures()


@dataclass
class Score:
    """What one algorithm did with one load."""

    algorithm: str
    placed: int = 0
    rejected: int = 0
    failed: int = 0
    """Claims that lost."""
    waits_ms: list[float] = field(default_factory=list)
    """From the wish in etcd to the claim in etcd."""
    late: int = 0
    """VMs that nobody of the head took: those behind it did."""

    def told(self, truth: Truth) -> dict[str, Any]:
        mean, end = truth.figures()
        waits = self.waits_ms or [0.0]
        return {
            "algorithm": self.algorithm,
            "placed": self.placed,
            "rejected": self.rejected,
            "failed_claims_per_vm": round(self.failed / max(1, self.placed), 5),
            "claim_p50_ms": round(percentile(waits, 50), 3),
            "claim_p99_ms": round(percentile(waits, 99), 3),
            "claim_max_ms": round(max(waits), 3),
            "empty_nodes": round(float(mean[0]), 3),
            "stranded_memory": round(float(mean[1]), 5),
            "utilisation_stdev": round(float(mean[2]), 5),
            "empty_nodes_at_end": int(end[0]),
            "stranded_memory_at_end": round(float(end[1]), 5),
            "utilisation_stdev_at_end": round(float(end[2]), 5),
            "taken_behind_the_head": self.late,
        }


def quality(ours: dict[str, Any], central: dict[str, Any], aim: str) -> float | None:
    """Of a result against the central one; None when it rejects more, so that they cannot be compared.

    Packing: time-averaged empty nodes. Spread: 1 minus the excess standard deviation of utilisation.
    """
    if ours["rejected"] > central["rejected"]:
        return None
    if aim == "spread":
        excess = ours["utilisation_stdev"] - central["utilisation_stdev"]
        return round(1.0 - max(0.0, excess), 5)
    if not central["empty_nodes"]:
        return 1.0
    return round(ours["empty_nodes"] / central["empty_nodes"], 5)
