"""What an agent costs when nothing happens: CPU and memory, connected to Ceph, without and with local VMs."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

from bench.harness import Result, row, say
from bench.lab import Lab, lab
from metastack.core.model import ClusterConfig
from metastack.core.state.codec import encode
from metastack.core.state.record_versions import LEVEL
from metastack.core.transaction import Put, Transaction

VMS = 12
WINDOW_S = 10.0
WINDOWS = 6
CPU_LIMIT_PERCENT, RSS_LIMIT_MB, PER_VM_LIMIT_MB = 1.0, 100.0, 1.0
NODE = "n1"


def run(runs: int | None = None) -> Result:
    return asyncio.run(_run(runs or WINDOWS))


async def _run(windows: int) -> Result:
    async with lab() as cluster:
        pid = _agent_pid(cluster)
        await asyncio.sleep(5)  # what starting up left to do
        alone_cpu = await _cpu(pid, windows)
        alone_mb = _rss_mb(pid)
        say(f"  alone: {alone_mb:.1f} MB")
        await _room_for_many(cluster)
        for n in range(VMS):
            await cluster.running(await cluster.create(f"idle-{n}", node=NODE, memory_mib=64))
        await asyncio.sleep(20)  # the guests have booted
        with_cpu = await _cpu(pid, windows)
        with_mb = _rss_mb(pid)
        say(f"  with {VMS} VMs: {with_mb:.1f} MB")
    per_vm = (with_mb - alone_mb) / VMS
    return Result(
        rows=[
            row("idle: CPU of an agent without VMs", "% of a core", alone_cpu, limit=CPU_LIMIT_PERCENT),
            row(f"idle: CPU of an agent with {VMS} VMs", "% of a core", with_cpu),
            row("idle: resident memory, connected to Ceph, no VMs", "MB", [alone_mb], limit=RSS_LIMIT_MB),
            row("idle: resident memory for each further local VM", "MB", [per_vm], limit=PER_VM_LIMIT_MB),
        ],
        raw={
            "window_s": WINDOW_S, "cpu_percent": alone_cpu, "cpu_percent_with_vms": with_cpu,
            "rss_mb": alone_mb, "rss_mb_with_vms": with_mb, "vms": VMS,
        },
    )  # fmt: skip


def _agent_pid(cluster: Lab) -> int:
    """The agent's pid as this machine counts it; the host has a pid namespace of its own."""
    init = cluster.cluster.init(NODE)
    assert init is not None, f"{NODE} is off"
    for found in cluster.cluster.host(NODE).processes(init):
        if b"agent\0run" in Path(f"/proc/{found.pid}/cmdline").read_bytes():
            return found.pid
    raise RuntimeError(f"no agent on {NODE}")


async def _room_for_many(cluster: Lab) -> None:
    config = ClusterConfig(record_version=LEVEL, lease_ttl_s=5, overcommit_cpu=32.0, default_network="br0")
    put = Put(cluster.person.keys.cluster(), encode(config))
    await cluster.person.store.commit(Transaction(name="bench", guards=(), effects=(put,)))


async def _cpu(pid: int, windows: int) -> list[float]:
    """Percent of one core over some windows."""
    samples = []
    for _ in range(windows):
        before = _ticks(pid)
        await asyncio.sleep(WINDOW_S)
        samples.append((_ticks(pid) - before) / os.sysconf("SC_CLK_TCK") / WINDOW_S * 100)
    return samples


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])


def _rss_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no VmRSS of {pid}")
