"""What placement costs one agent: CPU from a decoded message to a ranked decision, and memory of its view.

Owns: worlds of 10,000 VMs, fed through the real codec. Refuses: gRPC, which is measured on a real etcd.
Rule: CPU time of the thread, not wall time; of several rounds the fastest, as other work only ever adds.
"""

from __future__ import annotations

import gc
import random
import time
import tracemalloc
import uuid
from collections.abc import Iterator
from typing import Any

from bench.harness import Row, percentile, say
from bench.placement.loads import OFTEN, SHAPES
from metastack.core.model import (
    Claim,
    ClusterConfig,
    Nic,
    NodeAlive,
    NodeFacts,
    Phase,
    Record,
    Resources,
    VmId,
    VmSpec,
    VmStatus,
    token,
)
from metastack.core.placement import PlacementEngine
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Batch, Entry, KeyEvent, Snapshot

VMS = 10_000
MEASURED = 2000
"""The last so many of them are timed one by one."""
BY_ANOTHER = 0.03
"""Share of claims that the first in rank loses to the second, as in the simulation at its worst."""
ROUNDS = 3
NODES = (200, 2048)
KINDS = ("spec", "claim, as assigned", "claim, by another", "status")


class _Source:
    """Records as commands and agents write them."""

    def __init__(self, nodes: int, weights: dict[str, float]) -> None:
        self.keys, self.random, self.revision = Keys(), random.Random(f"cost/{nodes}"), 10
        self.nodes, self._weights = nodes, weights

    def ident(self) -> str:
        return str(uuid.UUID(int=self.random.getrandbits(128), version=4))

    def put(self, key: str, record: Record) -> Batch:
        self.revision += 1
        entry = Entry(key, encode(record), self.revision, self.revision, 1)
        return Batch(self.revision, (KeyEvent(key, self.revision, entry),))

    def cluster(self) -> Iterator[Batch]:
        yield self.put(self.keys.cluster(), ClusterConfig(**self._weights))  # type: ignore[arg-type]
        for n in range(self.nodes):
            name = f"n{n:04d}"
            yield self.put(self.keys.node_facts(name), NodeFacts(name=name, uuid=self.ident()))
            room = Resources(cpus=96, memory_mib=2_097_152)
            alive = NodeAlive(name=name, ready=True, capacity=room, bridges=("br0",), storage="ceph")
            yield self.put(self.keys.node_alive(name), alive)

    def spec(self, n: int) -> VmSpec:
        cpus, mib = self.random.choices(SHAPES, OFTEN)[0]
        mac = f"52:54:00:{n >> 16 & 255:02x}:{n >> 8 & 255:02x}:{n & 255:02x}"
        return VmSpec(
            project="default", name=f"vm-{n:05d}", uuid=self.ident(), image="debian-12",
            image_uuid="5b1f6f0e-2f3a-4a6e-9b3c-0c6f7d1d2e3f", volume_uuid=self.ident(), cpus=cpus,
            memory_mib=mib, disk_bytes=20 << 30, nics=(Nic(bridge="br0", mac=mac),), by="admin",
            created="2026-01-01T00:00:00Z", request_id=self.ident(),
        )  # fmt: skip

    def claim(self, spec: VmSpec, node: str) -> Batch:
        claim = Claim(
            node=node, session=token(0, 5), uuid=spec.uuid, volume_uuid=spec.volume_uuid, claim_id=self.ident()
        )
        return self.put(self.keys.claim(spec.id), claim)

    def status(self, spec: VmSpec, node: str) -> Batch:
        at = f"2026-01-01T{self.random.randrange(24):02d}:{self.random.randrange(60):02d}:00Z"
        status = VmStatus(
            uuid=spec.uuid,
            phase=Phase.RUNNING,
            node=node,
            session=token(0, 5),
            epoch=self.revision,
            run=1,
            since=at,
        )
        return self.put(self.keys.vm_status(spec.id), status)


def measure(rows: list[Row], rounds: int | None = None) -> dict[str, Any]:
    """Both figures at both sizes."""
    told: dict[str, Any] = {}
    for nodes in NODES:
        best: dict[str, dict[str, float]] = {}
        for _ in range(rounds or ROUNDS):
            for kind, figures in _cpu(nodes).items():
                if kind not in best or figures["p50_us"] < best[kind]["p50_us"]:
                    best[kind] = figures
        for kind in KINDS:
            one = best[kind]
            name = f"agent CPU, {nodes} nodes, {VMS} VMs, {kind}: message to decision, without gRPC"
            rows.append(Row(name=name, unit="us", n=int(one["n"]), p50=one["p50_us"], p95=one["p95_us"]))
        say(f"  agent CPU at {nodes} nodes, p50: " + ", ".join(f"{k} {best[k]['p50_us']} us" for k in KINDS))
        told[f"cpu_us_{nodes}_nodes"] = best
    size = _memory(200)
    say(f"  memory of an agent's view: {size} B a VM")
    rows.append(
        Row(
            name=f"agent memory, {VMS} VMs that are not its own: spec, claim, status, board",
            unit="B/VM",
            n=VMS,
            p50=size,
            p95=size,
        )
    )
    told["view_bytes_per_vm"] = size
    return told


def _cpu(nodes: int) -> dict[str, dict[str, float]]:
    """A cluster that fills up, one VM after the other; the last thousand are timed."""
    source = _Source(nodes, {})
    world = ClusterState(source.keys)
    world.load(Snapshot(1, ()))
    for batch in source.cluster():
        world.apply(batch)
    engine = PlacementEngine(world)
    samples: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}

    def step(kind: str, batch: Batch, timed: bool) -> None:
        began = time.thread_time_ns()
        touched = world.apply(batch)
        applied = time.thread_time_ns()
        engine.update(touched)
        ended = time.thread_time_ns()
        if timed:
            samples[kind].append(((applied - began) / 1000, (ended - applied) / 1000))

    gc.collect()
    gc.disable()
    try:
        for n in range(VMS):
            spec, timed = source.spec(n), n >= VMS - MEASURED
            step("spec", source.put(source.keys.vm_spec(spec.id), spec), timed)
            head, assigned = engine.waiting[spec.id].head, source.random.random() >= BY_ANOTHER
            node = head[0 if assigned else 1]
            step("claim, as assigned" if assigned else "claim, by another", source.claim(spec, node), timed)
            step("status", source.status(spec, node), timed)
    finally:
        gc.enable()
    return {
        kind: {
            "n": len(found),
            "p50_us": round(percentile([a + b for a, b in found], 50), 1),
            "p95_us": round(percentile([a + b for a, b in found], 95), 1),
            "world_p50_us": round(percentile([a for a, _ in found], 50), 1),
            "board_p50_us": round(percentile([b for _, b in found], 50), 1),
        }
        for kind, found in samples.items()
    }


def _memory(nodes: int) -> float:
    """Bytes that the view grows by with each VM: world and board, everything they keep alive."""
    source = _Source(nodes, {})
    world = ClusterState(source.keys)
    world.load(Snapshot(1, ()))
    for batch in source.cluster():
        world.apply(batch)
    engine = PlacementEngine(world)

    def add(first: int, count: int) -> None:
        for n in range(first, first + count):
            spec = source.spec(n)
            engine.update(world.apply(source.put(source.keys.vm_spec(spec.id), spec)))
            node = engine.waiting[VmId("default", f"vm-{n:05d}")].head[0]
            engine.update(world.apply(source.claim(spec, node)))
            engine.update(world.apply(source.status(spec, node)))

    add(0, 500)  # caches are warm, tables have their first size
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        add(500, VMS)
        gc.collect()
        return round((tracemalloc.get_traced_memory()[0] - before) / VMS, 1)
    finally:
        tracemalloc.stop()
