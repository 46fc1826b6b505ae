"""Claims a second of 200 agents on a real etcd, beside their baseline: that part of ``scale`` alone."""

from __future__ import annotations

from bench.harness import Result
from bench.scale.whole import claims_of


def run(runs: int | None = None) -> Result:
    return claims_of(200, runs)
