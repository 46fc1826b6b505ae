"""What TLS and rights in etcd cost: create → running and power cut → running, in pairs with a plain cluster.

Both clusters stand side by side, and the halves of a pair follow each other in changing order, so that the
machine's noise hits both. The figure is the ratio of the medians. One cluster idles while the other works.
"""

from __future__ import annotations

import asyncio
import time
from statistics import median

from bench.failover import STEPS, once
from bench.harness import Result, Row, row, say
from bench.lab import Lab, lab
from metastack.core.model import VmId

RUNS = 30
TTL_S = 3
MOST = 1.10
"""Highest ratio that is all right."""


def run(runs: int | None = None) -> Result:
    return asyncio.run(_run(runs or RUNS))


async def _run(runs: int) -> Result:
    create: dict[str, list[float]] = {"plain": [], "secure": []}
    lost: dict[str, dict[str, list[float]]] = {
        kind: {name: [] for name in ("total", *STEPS)} for kind in ("plain", "secure")
    }
    async with lab(ttl_s=TTL_S, name="p") as plain, lab(ttl_s=TTL_S, name="s", secure=True) as secure:
        both = [("plain", plain), ("secure", secure)]
        vms: dict[str, VmId] = {}
        for kind, cluster in both:
            vms[kind] = await cluster.create("survivor")
            await cluster.running(vms[kind])
        for n in range(runs):
            for kind, cluster in both if n % 2 else reversed(both):
                create[kind].append(await _create(cluster, f"bench-{n}", f"n{n % 3 + 1}"))
            for kind, cluster in both if n % 2 else reversed(both):
                await cluster.all_ready()
                await once(cluster, vms[kind], lost[kind])
            say(f"  {n + 1} of {runs}: create {create['plain'][-1]:.2f} and {create['secure'][-1]:.2f} s")
    failover = {kind: samples["total"] for kind, samples in lost.items()}
    rows = _rows("create to running", create) + _rows(f"power cut to running, TTL {TTL_S} s", failover)
    return Result(rows=rows, raw={"create_s": create, "failover_s": lost})


def _rows(name: str, samples: dict[str, list[float]]) -> list[Row]:
    ratio = median(samples["secure"]) / median(samples["plain"])
    pairs = [b / a for a, b in zip(samples["plain"], samples["secure"], strict=True)]
    return [
        row(f"secure: {name}", "s", samples["secure"], baseline=samples["plain"]),
        row(f"secure: {name}, ratio of the medians", "1", [ratio], limit=MOST),
        row(f"secure: {name}, ratio within a pair", "1", pairs),
    ]


async def _create(cluster: Lab, name: str, node: str) -> float:
    start = time.monotonic()
    vm = await cluster.create(name, node=node)
    took_s = await cluster.running(vm) - start
    await cluster.delete(vm)
    return took_s
