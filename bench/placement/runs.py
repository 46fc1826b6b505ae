"""One run of one algorithm on one load, remembered: a bench that was interrupted goes on where it was.

Owns: the cache of finished runs. Refuses: reusing a result of other sources or another input.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench.harness import TOP, say
from bench.placement import crowd
from bench.placement.loads import Load
from bench.placement.model import Model
from bench.placement.ranked import ranked
from bench.placement.truth import Score, Truth, percentile

SEED = 1
SOURCES = (
    *(f"bench/placement/{name}.py" for name in ("model", "loads", "truth", "crowd", "ranked")),
    "src/metastack/core/placement",
    "src/metastack/core/model",
    "src/metastack/core/state/cluster_state.py",
    "src/metastack/agent/cache/lag.py",
)


class Runs:
    """Finished runs by what they depend on; kept in a file until the bench is through."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
        whole = hashlib.blake2b(digest_size=16)
        for source in SOURCES:
            there = TOP / source
            for file in [there] if there.is_file() else sorted(there.rglob("*.py")):
                whole.update(file.read_bytes())
        self._sources = whole.hexdigest()

    def get(self, words: Sequence[object], make: Callable[[], Any]) -> Any:
        """What such a run gave, from now or from before."""
        key = hashlib.blake2b(repr((self._sources, *words)).encode(), digest_size=16).hexdigest()
        if key not in self._found:
            self._found[key] = make()
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._path.write_text(json.dumps(self._found))
        return self._found[key]

    def done(self) -> None:
        """All of them are in the bench's own record by now."""
        self._path.unlink(missing_ok=True)

    def run(self, algorithm: str, load: Load, model: Model, aim: str, seed: int = SEED) -> dict[str, Any]:
        """The figures of one algorithm. The seed is of delays and of who lags; the load has its own."""
        words = (*self._words(algorithm, load, model, aim), seed)
        return self.get(words, lambda: self._run(algorithm, load, model, aim, seed))  # type: ignore[no-any-return]

    def pooled(self, load: Load, model: Model, aim: str, seeds: Sequence[int]) -> dict[str, Any]:
        """Our own figures over several seeds as if they were one run, and of each seed the 99th percentile."""
        one = [
            self.get(
                (*self._words("ranked, waits", load, model, aim), seed),
                lambda seed=seed: self._waits(load, model, aim, seed),
            )
            for seed in seeds
        ]
        waits = [wait for run in one for wait in run["waits_ms"]]
        placed = sum(run["placed"] for run in one)
        return {
            "seeds": list(seeds),
            "placed": placed,
            "rejected": sum(run["rejected"] for run in one),
            "failed_claims_per_vm": round(
                sum(run["failed_claims_per_vm"] * run["placed"] for run in one) / max(1, placed), 5
            ),
            "claim_p50_ms": round(percentile(waits, 50), 3),
            "claim_p99_ms": round(percentile(waits, 99), 3),
            "claim_max_ms": round(max(waits), 3),
            "claim_p99_ms_by_seed": [run["claim_p99_ms"] for run in one],
        }

    def _waits(self, load: Load, model: Model, aim: str, seed: int) -> dict[str, Any]:
        score, truth = _algorithm("ranked", load, model, aim, seed)
        told = score.told(truth)
        say(
            f"  {load.name}, {aim}, {model.deaf_percent:g} % deaf, seed {seed}: p99"
            f" {told['claim_p99_ms']:.0f} ms"
        )
        return {**told, "waits_ms": [round(wait, 2) for wait in score.waits_ms]}

    @staticmethod
    def _words(algorithm: str, load: Load, model: Model, aim: str) -> tuple[object, ...]:
        jobs = hashlib.blake2b(repr((load.machines, load.jobs)).encode(), digest_size=16).hexdigest()
        return (algorithm, load.name, jobs, sorted(asdict(model).items()), aim)

    def _run(self, algorithm: str, load: Load, model: Model, aim: str, seed: int) -> dict[str, Any]:
        began = time.process_time()
        score, truth = _algorithm(algorithm, load, model, aim, seed)
        told = score.told(truth)
        say(
            f"  {load.name}, {aim}, {algorithm}, seed {seed}: failed {told['failed_claims_per_vm']:g} a VM, p99"
            f" {told['claim_p99_ms']:.0f} ms ({time.process_time() - began:.1f} s of CPU)"
        )
        return told


def _algorithm(algorithm: str, load: Load, model: Model, aim: str, seed: int) -> tuple[Score, Truth]:
    if algorithm == "ranked":
        return ranked(load.machines, load.jobs, model, aim, seed)
    if algorithm == "ranked, a board each":
        return ranked(load.machines, load.jobs, model, aim, seed, own=len(load.machines), name=algorithm)
    if algorithm == "central":
        return crowd.central(load.machines, load.jobs, model, aim, seed)
    return crowd.crowd(algorithm, load.machines, load.jobs, model, aim, seed)
