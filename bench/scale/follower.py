"""What following costs an agent on a real etcd: that part of ``scale`` alone."""

from __future__ import annotations

from bench.harness import Result
from bench.scale.whole import followers


def run(runs: int | None = None) -> Result:
    return followers(runs)
