"""Running seeds: many, in several processes, added up.

Owns: the sum over seeds, the result file and its one line a run. Refuses: judging (checkers) and choosing
(schedule). Rule: the sum does not depend on how many processes did the work: it is made in the order of seeds.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from .... import __version__
from ..script.schedule import NODES, UNTIL_S, VMS, schedule
from ..script.script import Script
from ..script.upgrading import mixed
from .play import Report, play

BATCH = 25
"""Seeds that one worker process plays before a new one takes over: memory stays bounded."""


class Failure(msgspec.Struct, kw_only=True):
    """A seed that failed."""

    seed: int
    violations: list[str]
    replay: str


class Totals(msgspec.Struct, kw_only=True):
    """The sum over seeds: what ``-o json`` prints."""

    seeds: int = 0
    first_seed: int = 0
    nodes: int = NODES
    vms: int = VMS
    virtual_hours: float = 0.0
    real_s: float = 0.0
    """Wall time of the whole run."""
    cpu_s: float = 0.0
    """Time inside the simulations, summed over processes."""
    speed: float = 0.0
    """Virtual seconds per second inside a simulation."""
    faults: int = 0
    fault_kinds: dict[str, int] = {}
    violations: int = 0
    failures: list[Failure] = []
    slowest_convergence_s: float = 0.0
    trace_hash: str = ""
    """Over the hashes of every seed's trace, in the order of seeds."""
    cells: dict[str, int] = {}


def script_of(seed: int, nodes: int = NODES, vms: int = VMS, upgrade: bool = False) -> Script:
    """What a seed expands to; with ``upgrade`` in a cluster that is being upgraded meanwhile."""
    found = schedule(seed, nodes, vms)
    return mixed(found) if upgrade else found


def _reports(
    first: int, seeds: int, nodes: int, vms: int, jobs: int, seconds: float, upgrade: bool
) -> Iterator[Report]:
    if jobs <= 1:
        begun = time.monotonic()
        for seed in range(first, first + seeds):
            if seconds and time.monotonic() - begun > seconds:
                return
            yield play(script_of(seed, nodes, vms, upgrade))
        return
    batches = [(at, min(BATCH, first + seeds - at)) for at in range(first, first + seeds, BATCH)]
    begun = time.monotonic()

    def batch(work: tuple[int, int]) -> list[Report]:
        if seconds and time.monotonic() - begun > seconds:
            return []
        at, count = work
        # A fresh interpreter, never a fork: nothing of this process's state can reach a run.
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "metastack.lab.sim.runs.worker",
                *map(str, (at, count, nodes, vms, int(upgrade))),
            ],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"seeds {at} to {at + count - 1}: {done.stderr.decode()[-2000:]}")
        return msgspec.json.decode(done.stdout, type=list[Report])

    with ThreadPoolExecutor(jobs) as pool:
        for reports in pool.map(batch, batches):
            yield from reports


def run(
    first: int,
    seeds: int,
    *,
    nodes: int = NODES,
    vms: int = VMS,
    jobs: int = 1,
    seconds: float = 0.0,
    upgrade: bool = False,
) -> Totals:
    """Play seeds ``first`` to ``first + seeds - 1``; at most for ``seconds`` (0: all of them)."""
    begun = time.perf_counter()
    totals = Totals(first_seed=first, nodes=nodes, vms=vms, fault_kinds={}, failures=[], cells={})
    whole, virtual_s = hashlib.blake2b(digest_size=16), 0.0
    for report in _reports(first, seeds, nodes, vms, jobs, seconds, upgrade):
        totals.seeds += 1
        virtual_s += report.virtual_s
        totals.cpu_s += report.real_s
        for kind, count in report.faults.items():
            totals.fault_kinds[kind] = totals.fault_kinds.get(kind, 0) + count
            totals.faults += count
        for cell, count in report.cells.items():
            totals.cells[cell] = totals.cells.get(cell, 0) + count
        totals.slowest_convergence_s = max(totals.slowest_convergence_s, report.converged_s)
        whole.update(report.trace_hash.encode())
        if report.violations:
            totals.violations += len(report.violations)
            totals.failures.append(
                Failure(
                    seed=report.seed,
                    violations=report.violations,
                    replay=replay_of(report.seed, nodes, vms, upgrade),
                )
            )
    totals.trace_hash = whole.hexdigest()
    totals.virtual_hours = virtual_s / 3600
    totals.real_s = time.perf_counter() - begun
    totals.speed = virtual_s / totals.cpu_s if totals.cpu_s else 0.0
    return totals


def replay_of(seed: int, nodes: int, vms: int, upgrade: bool = False) -> str:
    """The one command that shows a seed again."""
    sizes = "" if (nodes, vms) == (NODES, VMS) else f" --nodes {nodes} --vms {vms}"
    return f"metastack sim replay {seed}{sizes}{' --upgrade' if upgrade else ''}"


def append(path: Path, totals: Totals) -> None:
    """One line more in the result file: what ran, of which source, and what came of it."""
    line = {
        "first_seed": totals.first_seed,
        "seeds": totals.seeds,
        "nodes": totals.nodes,
        "vms": totals.vms,
        "until_s": UNTIL_S,
        "source": source_of(),
        "version": __version__,
        "virtual_hours": round(totals.virtual_hours, 3),
        "cpu_s": round(totals.cpu_s, 1),
        "faults": totals.faults,
        "violations": totals.violations,
        "failed_seeds": [failure.seed for failure in totals.failures],
        "trace_hash": totals.trace_hash,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(msgspec.json.encode(line) + b"\n")


def source_of() -> str:
    """The commit that ran (with + when files differ from it), or a hash of the package's own files."""
    package = Path(__file__).parents[3]
    try:
        done = subprocess.run(
            ["git", "-C", str(package), "describe", "--always", "--dirty=+", "--abbrev=12"],
            capture_output=True,
            check=False,
            timeout=10,
        )
        if done.returncode == 0:
            return done.stdout.decode().strip()
    except (OSError, subprocess.TimeoutExpired):
        pass
    whole = hashlib.blake2b(digest_size=8)
    for path in sorted(package.rglob("*.py")):
        whole.update(path.read_bytes())
    return f"files-{whole.hexdigest()}"
