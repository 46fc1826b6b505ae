"""Power cut → running elsewhere, at two TTLs, with the share of each step as etcd's watch showed it."""

from __future__ import annotations

import asyncio
import time

from bench.harness import Result, Row, row, say
from bench.lab import Lab, lab
from metastack.core.model import Fence, VmId
from metastack.core.state.codec import decode
from metastack.core.state.keys import Kind

RUNS = 10
TTLS_S = (3, 5)
MARGIN_S = 2.0
STEPS = ("expiry", "grace", "fence", "claim", "boot")


def run(runs: int | None = None) -> Result:
    return asyncio.run(_run(runs or RUNS))


async def _run(runs: int) -> Result:
    rows: list[Row] = []
    raw: dict[str, object] = {}
    for ttl_s in TTLS_S:
        samples: dict[str, list[float]] = {name: [] for name in ("total", *STEPS)}
        async with lab(ttl_s=ttl_s) as cluster:
            vm = await cluster.create("survivor")
            await cluster.running(vm)
            for n in range(runs):
                await cluster.all_ready()
                await once(cluster, vm, samples)
                say(f"  TTL {ttl_s} s: {n + 1} of {runs}: {samples['total'][-1]:.2f} s")
        total = samples["total"]
        rows.append(row(f"failover: power cut to running, TTL {ttl_s} s", "s", total, limit=ttl_s + MARGIN_S))
        rows += [row(f"failover: {step}, TTL {ttl_s} s", "s", samples[step]) for step in STEPS]
        raw[f"ttl_{ttl_s}_s"] = samples
    return Result(rows=rows, raw=raw)


async def once(cluster: Lab, vm: VmId, samples: dict[str, list[float]]) -> None:
    victim, keys = cluster.node(vm), cluster.person.keys
    first, start = len(cluster.log), time.monotonic()
    await asyncio.to_thread(cluster.cluster.kill_node, victim)
    await cluster.until(
        f"{vm} running elsewhere",
        lambda: cluster.node(vm) not in ("", victim) and cluster.phase(vm) == "running",
    )
    marks: dict[str, float] = {}
    for at_s, event in cluster.log[first:]:
        parsed = keys.parse(event.key)
        if parsed is None:
            continue
        if parsed.kind is Kind.NODE_ALIVE and parsed.names == (victim,) and event.entry is None:
            marks["expiry"] = at_s
        elif parsed.kind is Kind.FENCE and parsed.names == (victim,) and event.entry is not None:
            marks["grace" if decode(Fence, event.entry.value).intent else "fence"] = at_s
        elif parsed.kind is Kind.CLAIM and parsed.vm == vm and event.entry is not None:
            marks["claim"] = at_s
        elif parsed.kind is Kind.VM_STATUS and parsed.vm == vm and event.entry is not None:
            marks["boot"] = at_s
    missing = [step for step in STEPS if step not in marks]
    if missing:
        raise RuntimeError(f"steps that were not seen: {missing}")
    before = start
    for step in STEPS:
        samples[step].append(marks[step] - before)
        before = marks[step]
    samples["total"].append(marks["boot"] - start)
    await asyncio.to_thread(cluster.cluster.start_node, victim)
