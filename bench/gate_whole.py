"""What the last gate adds to whole creates and whole failovers: VMs with it and without it, on the same agents.

The agents load ``bench/ungated``: a VM whose name says so is not asked about. Two nodes, so that every power
cut moves all VMs together: both kinds share the cut, the lease's expiry and the fence, and differ by the gate.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import time
from collections.abc import Sequence
from pathlib import Path

from bench.harness import Result, Row, percentile, row, say
from bench.lab import Lab, lab
from metastack.core.model import Phase, VmId, VmStatus
from metastack.core.state.codec import decode
from metastack.core.state.keys import Kind
from metastack.lab.dev.cluster import Cluster
from metastack.lab.dev.host import Host

UNGATED = Path(__file__).with_name("ungated")
CREATE_S, FAILOVER_S = 0.030, 0.050
"""What the gate may add to the p50."""
TTL_S = 3
RESAMPLES = 4000
ASKED, FREE = "asked", "free"
ORDER = (ASKED, FREE, FREE, ASKED)
"""By name and by time neither kind comes first more often."""

Block = tuple[Sequence[float], Sequence[float]]
"""Samples (with the gate, without it) that were taken together."""


class Ungated(Cluster):
    """A cluster whose agents do not ask about VMs that are named so."""

    def _agent(self, host: Host) -> None:
        super()._agent(host)
        host.stop_agent()
        host.start_agent({"PYTHONPATH": str(UNGATED), "BENCH_GATE_LOG": str(noted(host))})


def noted(host: Host) -> Path:
    return host.agent_log.with_name("bench-gate.jsonl")


def added(blocks: Sequence[Block], seed: int = 1) -> tuple[float, float, float]:
    """(difference of the p50, and its 95 % interval), by a bootstrap that draws whole blocks."""

    def difference(drawn: Sequence[Block]) -> float:
        asked, free = ([sample for block in drawn for sample in block[n]] for n in (0, 1))
        return percentile(asked, 50) - percentile(free, 50)

    draw = random.Random(seed)
    found = [difference(draw.choices(blocks, k=len(blocks))) for _ in range(RESAMPLES)]
    return difference(blocks), percentile(found, 2.5), percentile(found, 97.5)


def rows(what: str, blocks: Sequence[Block], limit_s: float, inside: Sequence[float]) -> list[Row]:
    """Both kinds, what the gate adds with its interval, and what it took by the agents' own clocks."""
    asked, free = ([sample for block in blocks for sample in block[n]] for n in (0, 1))
    middle, low, high = added(blocks)
    told = (
        f"gate: added to p50 of a whole {what}, 95 %: {low * 1e3:+.0f} to {high * 1e3:+.0f} ms (p95: its end)"
    )
    return [
        row(f"gate: whole {what} with it, without it", "s", asked, baseline=free),
        Row(name=told, unit="s", n=len(asked), p50=round(middle, 4), p95=round(high, 4), limit=limit_s,
            ok=middle <= limit_s),
        row(f"gate: its own time inside a whole {what}", "s", inside),
    ]  # fmt: skip


async def measure(creates: int, cuts: int) -> Result:
    load: list[float] = []
    async with lab(ttl_s=TTL_S, nodes=2, kind=Ungated) as cluster:
        created = await _creates(cluster, creates, load)
        create_s = _inside(cluster)
        vms = await _together(cluster)
        began = time.monotonic()
        moved = await _failovers(cluster, vms, cuts, load)
        move_s = _inside(cluster, began)
    return Result(
        rows=[*rows("create", created, CREATE_S, create_s), *rows("failover", moved, FAILOVER_S, move_s)],
        raw={
            "whole_create_s": created,
            "whole_failover_s": moved,
            "gate_inside_create_s": create_s,
            "gate_inside_failover_s": move_s,
            "load_1min": load,
        },
    )


def _inside(cluster: Lab, since_s: float = 0.0) -> list[float]:
    """How long the gate took, by the agents' clocks, each time it was asked since then."""
    notes = []
    for host in cluster.cluster.hosts.values():
        if noted(host).exists():
            notes += [json.loads(line) for line in noted(host).read_text().splitlines()]
    notes = [note for note in notes if note["at_s"] >= since_s]
    if not any(note["vm"].endswith(FREE) for note in notes):
        raise RuntimeError("no agent loaded bench/ungated: nothing was measured without the gate")
    return [note["took_s"] for note in notes if note["vm"].endswith(ASKED)]


async def _creates(cluster: Lab, pairs: int, load: list[float]) -> list[Block]:
    """One VM at a time on a node in turns, spec asked for to running."""
    blocks: list[Block] = []
    for n in range(pairs):
        samples: dict[str, list[float]] = {ASKED: [], FREE: []}
        for kind in (ASKED, FREE) if n % 2 else (FREE, ASKED):
            began = time.monotonic()
            vm = await cluster.create(f"a{n}-{kind}", node=f"n{n // 2 % 2 + 1}")
            samples[kind].append(await cluster.running(vm) - began)
            await cluster.delete(vm)
        blocks.append((samples[ASKED], samples[FREE]))
        load.append(round(os.getloadavg()[0], 2))
        if n % 10 == 9:
            say(f"  {n + 1} of {pairs} pairs of creates")
    return blocks


async def _together(cluster: Lab) -> dict[VmId, str]:
    """VMs of both kinds, all on one node."""
    vms = {VmId("default", f"b{n}-{kind}"): kind for n, kind in enumerate(ORDER)}
    for vm in vms:
        await cluster.create(vm.name)
        await cluster.running(vm)
    while len({cluster.node(vm) for vm in vms}) > 1:
        await _cut(cluster, cluster.node(next(iter(vms))), vms)  # no sample
    return vms


async def _failovers(cluster: Lab, vms: dict[VmId, str], cuts: int, load: list[float]) -> list[Block]:
    blocks: list[Block] = []
    for n in range(cuts):
        took = await _cut(cluster, cluster.node(next(iter(vms))), vms)
        asked, free = ([took[vm] for vm in vms if vms[vm] == kind] for kind in (ASKED, FREE))
        blocks.append((asked, free))
        load.append(round(os.getloadavg()[0], 2))
        say(f"  {n + 1} of {cuts} power cuts: " + ", ".join(f"{took[vm]:.2f}" for vm in vms) + " s")
    return blocks


async def _cut(cluster: Lab, victim: str, vms: dict[VmId, str]) -> dict[VmId, float]:
    """Power cut to the first status that says running, of every VM that was on the victim."""
    await cluster.all_ready()
    mine = [vm for vm in vms if cluster.node(vm) == victim]
    first, began = len(cluster.log), time.monotonic()
    await asyncio.to_thread(cluster.cluster.kill_node, victim)

    def away() -> bool:
        return all(cluster.node(vm) not in ("", victim) and cluster.phase(vm) == "running" for vm in mine)

    await cluster.until(f"{len(mine)} VMs running elsewhere", away)
    await asyncio.to_thread(cluster.cluster.start_node, victim)
    return {vm: _running_at(cluster, vm, first) - began for vm in mine}


def _running_at(cluster: Lab, vm: VmId, first: int) -> float:
    claimed = False
    for at_s, event in cluster.log[first:]:
        parsed = cluster.person.keys.parse(event.key)
        if parsed is None or parsed.kind not in (Kind.CLAIM, Kind.VM_STATUS) or parsed.vm != vm:
            continue
        if event.entry is None:
            continue
        claimed = claimed or parsed.kind is Kind.CLAIM
        is_status = claimed and parsed.kind is Kind.VM_STATUS
        if is_status and decode(VmStatus, event.entry.value).phase is Phase.RUNNING:
            return at_s
    raise RuntimeError(f"{vm}: no status of its new node was seen")
