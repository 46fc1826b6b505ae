"""Loads: clusters and streams of VMs, made from a seed, and the replay of a trace by path.

Owns: the inputs of every run. Refuses: machines' clocks and global randomness.
"""

from __future__ import annotations

import csv
import heapq
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bench.placement.truth import Job, Machine, Truth

MACHINES = ((64, 262_144), (48, 393_216), (96, 524_288))
"""vCPU and MiB of three kinds of node, in turn."""
SHAPES = ((1, 2048), (2, 4096), (2, 16_384), (4, 16_384), (8, 32_768), (16, 65_536))
OFTEN = (30, 25, 15, 15, 10, 5)
BURST = 500
FULL_BEFORE, FULL_AFTER = 0.50, 0.70
"""Share of all vCPU that is taken when a run begins, and about when it ends."""
DELETED_WITHIN_S = 2.5
"""For each VM of a burst another is deleted, but not at the same moment."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """One stream of VMs on one cluster."""

    name: str
    machines: tuple[Machine, ...]
    jobs: tuple[Job, ...]


def steady(nodes: int, per_s: float, count: int, aim: str, seed: int = 1) -> Load:
    """Wishes at random moments, so many a second on average."""
    random_ = random.Random(f"{seed}/{nodes}/{per_s}")
    at, times = 0.0, []
    for _ in range(count):
        at += random_.expovariate(per_s)
        times.append(at)
    return _load(f"{nodes} nodes, {per_s:g} VM/s", nodes, times, aim, random_)


def bursts(nodes: int, count: int, aim: str, seed: int = 1) -> Load:
    """500 wishes at one moment, every 3 s."""
    random_ = random.Random(f"{seed}/{nodes}/bursts")
    times = [3.0 * (n // BURST) for n in range(count)]
    return _load(f"{nodes} nodes, bursts of {BURST}", nodes, times, aim, random_)


def _load(name: str, nodes: int, times: Sequence[float], aim: str, random_: random.Random) -> Load:
    machines = tuple(Machine(f"n{n:04d}", *MACHINES[n % len(MACHINES)]) for n in range(nodes))
    room = sum(machine.cpus for machine in machines)
    jobs: list[Job] = []

    def shape() -> tuple[int, int]:
        return random_.choices(SHAPES, OFTEN)[0]

    # What runs already was placed centrally, with the same aim.
    truth, taken = Truth(machines, 1), 0
    while taken < FULL_BEFORE * room:
        job = Job(f"old-{len(jobs):06d}", *shape(), created_s=-1.0)
        cpu = (truth.room_cpus - truth.cpus - job.cpus) / truth.room_cpus
        memory = (truth.room_mib - truth.mib - job.memory_mib) / truth.room_mib
        worth = np.minimum(cpu, memory) if aim == "spread" else -(cpu + memory) / 2
        node = int(np.argmax(np.where(truth.room(job), worth, -np.inf)))
        truth.change(job, node, 0.0, 1)
        jobs.append(replace(job, node=node))
        taken += job.cpus
    # As many are deleted as keeps the cluster from growing beyond its share.
    coming = [(at, *shape()) for at in times]
    grow = (FULL_AFTER - FULL_BEFORE) * room
    share = max(0.0, 1.0 - grow / sum(cpus for _, cpus, _ in coming))
    alive = [(n, -10.0) for n in range(len(jobs))]
    for at, cpus, mib in coming:
        if random_.random() < share:
            for _ in range(20):
                pick = random_.randrange(len(alive))
                n, since = alive[pick]
                if at - since >= 2.0:
                    alive[pick] = alive[-1]
                    alive.pop()
                    jobs[n] = replace(jobs[n], deleted_s=at + random_.uniform(0.0, DELETED_WITHIN_S))
                    break
        alive.append((len(jobs), at))
        jobs.append(Job(f"vm-{len(jobs):06d}", cpus, mib, created_s=at))
    return Load(name=name, machines=machines, jobs=tuple(jobs))


# --- a trace

_HURRY = 2
"""A creation and a deletion for each VM."""


def read_machines(path: Path) -> tuple[Machine, ...]:
    """Nodes of a CSV with the columns ``sn cpu_milli memory_mib``."""
    rows = _rows(path, ("sn", "cpu_milli", "memory_mib"))
    return tuple(Machine(row["sn"], float(row["cpu_milli"]), int(float(row["memory_mib"]))) for row in rows)


def read_tasks(path: Path) -> tuple[Job, ...]:
    """Tasks of a CSV with the columns ``name cpu_milli memory_mib creation_time deletion_time``, in seconds.

    CPU stays in thousandths. A task without a deletion time runs to the end.
    """
    jobs = []
    for row in _rows(path, ("name", "cpu_milli", "memory_mib", "creation_time", "deletion_time")):
        deleted = row["deletion_time"].strip()
        jobs.append(
            Job(
                row["name"],
                int(float(row["cpu_milli"])),
                int(float(row["memory_mib"])),
                created_s=float(row["creation_time"]),
                deleted_s=float(deleted) if deleted else None,
            )
        )
    return tuple(sorted(jobs, key=lambda job: (job.created_s, job.name)))


def _rows(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        missing = [column for column in columns if column not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path}: line 1: no column {', '.join(missing)}")
        rows = list(reader)
    if not rows:
        raise ValueError(f"{path}: holds no line but its head")
    return rows


def replay(jobs: Sequence[Job], per_s: float, *, keep: bool = False, seed: int = 1) -> tuple[Job, ...]:
    """The creations and deletions in their order, the time between any two of them drawn anew, so that VMs
    come at so many a second on average.

    Squeezing time evenly would make every VM of minutes one of milliseconds, gone before anybody has heard of
    it, while the months in which little happens would still take hours. ``keep``: all are created before the
    first is deleted, which fills the cluster as far as the trace can.
    """
    random_ = random.Random(f"{seed}/{per_s}/{len(jobs)}")
    events: list[tuple[float, int, int]] = []
    end = max(job.created_s for job in jobs)
    for n, job in enumerate(jobs):
        heapq.heappush(events, (job.created_s, 0, n))
        if job.deleted_s is not None:
            gone = max(job.deleted_s, job.created_s)
            heapq.heappush(events, (gone + end if keep else gone, 1, n))
    created, deleted = {}, {}
    at = 0.0
    pace = per_s if keep else per_s * _HURRY
    while events:
        _, what, n = heapq.heappop(events)
        at += random_.expovariate(pace)
        (deleted if what else created)[n] = at
    return tuple(replace(job, created_s=created[n], deleted_s=deleted.get(n)) for n, job in enumerate(jobs))
