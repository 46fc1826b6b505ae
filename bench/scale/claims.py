"""Claims a second of real agents on a real etcd, against raw writers with bare watch streams.

Owns: the trials. Refuses: agents that boot: a guest's start takes seconds in life and nothing on a twin.
Rule: both are timed from the first wish sent until the last event is delivered to every agent or stream.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.harness import say
from bench.scale import load
from bench.scale.stage import Stage, cpu_s, stage
from metastack.core.state.keys import Kind
from metastack.core.transaction import Transaction

PROFILE = os.environ.get("METASTACK_BENCH_PROFILE", "")
"""A file for the profile of the first process, while its agents claim."""
WORKERS = 2
"""Processes that share the agents: as many as this machine has cores."""


async def raw(agents: int, before: int, vms: int, batch: int, prefixes: tuple[str, ...]) -> dict[str, Any]:
    """The same wishes and compare-and-puts by writers that look at nothing, with as many bare streams."""
    async with stage() as one:
        await one.settle(before)
        at = await one.nodes([load.node(n) for n in range(agents)], cordoned=False)
        for worker in range(WORKERS):
            process = await one.worker()
            await process.ask("bare", count=_share(agents, worker), endpoint=one.endpoint, prefixes=prefixes)
        nodes = [[me.node, me.session, me.lease] for me in at]
        chunks = [list(range(before + n, min(before + n + 16, before + vms))) for n in range(0, vms, 16)]
        began, used = time.monotonic(), await _used(one)
        answers = await asyncio.gather(
            *(
                worker.ask(
                    "claim", numbers=[n for chunk in chunks[at::WORKERS] for n in chunk], nodes=nodes,
                    batch=batch, endpoint=one.endpoint,
                )
                for at, worker in enumerate(one.workers)
            )
        )  # fmt: skip
        return await _ended(one, began, used, max(answer["revision"] for answer in answers), vms)


@dataclass(frozen=True, kw_only=True)
class Trial:
    """So many VMs, taken by agents that put at most so many claims into a transaction."""

    name: str
    vms: int
    most: int
    window: int
    """So many wait at a time."""
    apart: str = ""


async def agents(count: int, before: int, trials: Sequence[Trial], **settings: object) -> dict[str, Any]:
    """Agents that take VMs as they are wished for, one trial after the other."""
    async with stage() as one:
        await one.settle(before, **settings)
        await one.write(load.places(count))
        started = time.monotonic()
        for _ in range(WORKERS):
            await one.worker()
        await asyncio.gather(
            *(
                worker.ask(
                    "agents", first=sum(_share(count, w) for w in range(at)), count=_share(count, at),
                    endpoint=one.endpoint, most=1, boot_s=-1.0,
                )
                for at, worker in enumerate(one.workers)
            )
        )  # fmt: skip
        told: dict[str, Any] = {"settings": settings, "starting_s": round(time.monotonic() - started, 1)}
        say(f"  {count} agents started in {told['starting_s']} s")
        first = before
        for trial in trials:
            wishes = load.wishes(range(first, first + trial.vms), trial.apart)
            first += trial.vms
            await one.each("most", most=trial.most)
            await one.each("tell")
            snapshot = await one.store.list(load.KEYS.cluster())
            if PROFILE:
                await one.each("profile")
            began, used = time.monotonic(), await _used(one)
            revision = await _place(one, wishes, snapshot.revision, trial.vms, trial.window)
            if PROFILE:
                await one.workers[0].ask("profile", path=f"{PROFILE}-{trial.name}")
            told[trial.name] = asdict(trial) | await _ended(one, began, used, revision, trial.vms)
            say(f"  {count} agents, {trial.name}: {told[trial.name]['claims_per_s']} claims/s")
        return told


async def _place(one: Stage, wishes: list[Transaction], after: int, vms: int, window: int) -> int:
    """Write wishes as VMs are taken; the revision at which the last one was."""
    taken: set[str] = set()
    written = 0
    todo = iter(wishes)

    async def write() -> None:
        nonlocal written
        while written - len(taken) <= window - load.AT_ONCE and (wish := next(todo, None)) is not None:
            written += load.AT_ONCE
            await one.write([wish], at_once=1)

    await write()
    async for batch in one.store.watch(load.KEYS.prefix(Kind.CLAIM), after):
        taken |= {event.key for event in batch.events if event.entry is not None}
        if len(taken) >= vms:
            return batch.revision
        await write()
    raise AssertionError("a watch has no end")


async def _used(one: Stage) -> dict[str, float]:
    return {"etcd": cpu_s(one.etcd_pid), "workers": sum(cpu_s(worker.pid) for worker in one.workers)}


async def _ended(one: Stage, began: float, used: dict[str, float], revision: int, vms: int) -> dict[str, Any]:
    """Wait until everything is everywhere; the figures."""
    claimed_s = time.monotonic() - began
    reached = await one.each("reached", revision=revision)
    took_s = max(answer["at_s"] for answer in reached) - began
    now = await _used(one)
    told = await one.each("tell")
    counts: dict[str, int] = {}
    for each in told:
        for what, n in each["counts"].items():
            counts[what] = counts.get(what, 0) + n
    return {
        "vms": vms,
        "took_s": round(took_s, 3),
        "claims_per_s": round(vms / took_s, 1),
        "claimed_s": round(claimed_s, 3),
        "etcd_cpu_s": round(now["etcd"] - used["etcd"], 2),
        "workers_cpu_s": round(now["workers"] - used["workers"], 2),
        "counts": counts,
        "messages": sum(each["messages"] for each in told),
        "lag_ms": max(each["lag_ms"] for each in told),
        "max_rss_kib": [each["max_rss_kib"] for each in told],
    }


def _share(count: int, worker: int) -> int:
    return count // WORKERS + (1 if worker < count % WORKERS else 0)
