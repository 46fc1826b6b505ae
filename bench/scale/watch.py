"""Watch traffic: what it costs etcd, and its own proxy, that every agent hears of everything.

Owns: streams of what agents watch, in hundreds, and writes like a cluster's. Refuses: agents: their share is
measured apart (:mod:`bench.scale.cost`).
Rule: first at a pace that everybody keeps up with, for delay and CPU a message; then as fast as etcd takes it.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from bench.harness import percentile, say
from bench.scale import load
from bench.scale.stage import Stage, cpu_s, stage
from metastack.core.transaction import Transaction

WORKERS = 2
PER_S = 25.0
SAMPLED = 8
"""Streams of each process whose arrivals are kept, spread over all."""
NARROW = (
    "actual/",
    "claims/",
    "config/",
    "desired/",
    "fences/",
    "groups/",
    "halts/",
    "hints/",
    "nodes/",
    "refusals/",
)
"""All that an agent folds in, as ranges of their own: without events, history, tickets."""


async def traffic(
    streams: int, before: int, writes: int, *, proxied: bool, narrow: bool = False
) -> dict[str, Any]:
    async with stage() as one:
        await one.settle(before)
        at = await one.nodes([load.node(0)], cordoned=False)
        changes = []
        for n in range(before, before + 2 * writes):
            claim = load.claim(n, at[0], 0)
            changes.append(Transaction(name="claim", guards=(), effects=claim.effects, lease=claim.lease))
        root = load.KEYS.prefix()
        prefixes = [root + part for part in NARROW] if narrow else [root]
        if not proxied:
            return await _measured(one, one.endpoint, 0, prefixes, streams, changes)
        async with one.proxy() as (endpoint, pid):
            return await _measured(one, endpoint, pid, prefixes, streams, changes)


async def _measured(
    one: Stage, endpoint: str, proxy: int, prefixes: list[str], streams: int, changes: list[Transaction]
) -> dict[str, Any]:
    for worker in range(WORKERS):
        process = await one.worker()
        count = streams // WORKERS + (1 if worker < streams % WORKERS else 0)
        await process.ask("wires", count=count, endpoint=endpoint, prefixes=prefixes, sampled=SAMPLED)
    half = len(changes) // 2
    pids = {"etcd": one.etcd_pid, "readers": 0} | ({"proxy": proxy} if proxy else {})

    def used() -> dict[str, float]:
        return {
            name: sum(cpu_s(worker.pid) for worker in one.workers) if name == "readers" else cpu_s(pid)
            for name, pid in pids.items()
        }

    # What writing alone costs etcd, one stream of readers apart, is told by the same writes with few streams.
    told: dict[str, Any] = {"streams": streams, "proxied": bool(proxy), "watches_a_stream": len(prefixes)}
    loop = asyncio.get_running_loop()
    began, start, before = loop.time(), time.monotonic(), used()
    sent: dict[int, float] = {}
    for n, change in enumerate(changes[:half]):
        await asyncio.sleep(max(0.0, began + n / PER_S - loop.time()))
        at_s = time.monotonic()
        (revision,) = await one.write([change], at_once=1)
        sent[revision] = at_s
    told["paced"] = await _ended(one, max(sent), start, half, before, used)
    delays = []
    for answer in await one.each("arrivals"):
        delays += [(at_s - sent[revision]) * 1000 for revision, at_s in answer["arrivals"] if revision in sent]
    told["paced"] |= {
        "samples": len(delays),
        "delay_p50_ms": round(percentile(delays, 50), 2),
        "delay_p99_ms": round(percentile(delays, 99), 2),
    }
    start, before = time.monotonic(), used()
    revisions = await one.write(changes[half:], at_once=16)
    told["burst"] = await _ended(one, max(revisions), start, half, before, used)
    say(f"  {streams} streams{', proxied' if proxy else ''}, {len(prefixes)} ranges: {told}")
    return told


async def _ended(
    one: Stage, revision: int, start: float, writes: int, before: Any, used: Any
) -> dict[str, Any]:
    reached = await one.each("reached", revision=revision)
    took_s = max(answer["at_s"] for answer in reached) - start
    now = used()
    messages = sum(answer["messages"] for answer in await one.each("tell"))
    cpu = {f"{name}_cpu_s": round(now[name] - before[name], 2) for name in now}
    return {
        "writes": writes,
        "took_s": round(took_s, 3),
        "messages": messages,
        "messages_per_s": round(messages / took_s),
        "deliveries_per_s": round(writes * sum(answer["streams"] for answer in reached) / took_s),
        **cpu,
        **{
            f"{name}_us_a_message": round((now[name] - before[name]) / max(1, messages) * 1e6, 1)
            for name in now
        },
    }
