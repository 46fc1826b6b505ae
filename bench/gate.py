"""What the last gate adds to a start: to whole creates and failovers (:mod:`bench.gate_whole`), and by itself.

By itself: the last steps of a boot with and without it, in turns, on a real Ceph. Without it: the look at this
node's address that every boot takes right before. With it: that look, the QEMU processes of this host, and the
question who has the disk open. Of a failover the disk's last client was killed, shut out and had its lock
broken before, as a takeover does.
"""

from __future__ import annotations

import asyncio
import tempfile
import time
import uuid
from pathlib import Path

from bench import gate_whole
from bench.harness import Result, row, say
from metastack.hypervisor.emulators import Emulators
from metastack.lab.dev.ceph import MiniCeph, new_address
from metastack.ports import Storage
from metastack.settings import StorageSettings
from metastack.storage.choose import build

RUNS = 60
CUTS = 12
"""Power cuts, of 4 VMs each."""
MIB = 1 << 20


def run(runs: int | None = None) -> Result:
    """``runs``: pairs of starts, and pairs of whole creates; a fifth as many power cuts."""
    return asyncio.run(_both(runs or RUNS))


async def _both(runs: int) -> Result:
    steps = await _run(runs)
    whole = await gate_whole.measure(runs, max(2, runs * CUTS // RUNS))
    return Result(rows=steps.rows + whole.rows, raw=steps.raw | whole.raw)


async def _run(runs: int) -> Result:
    folder = Path(tempfile.mkdtemp(prefix="ms-gate-", dir="/tmp"))
    ceph = MiniCeph(folder, address=new_address(), v2_port=3300, v1_port=6789)
    try:
        await ceph.create()
        await ceph.create_pool("vms")
        await ceph.create_management_user("cli")
        settings = ceph.settings("cli")
        storage = build(settings)
        await storage.open()
        try:
            create = await _pairs(storage, await _disk(storage, folder), runs)
            say("  created")
            failover = await _pairs(storage, await _lost(storage, settings, folder), runs)
        finally:
            await storage.close()
    finally:
        await ceph.destroy()
    added = {name: [w - wo for wo, w in pairs] for name, pairs in (("create", create), ("failover", failover))}
    return Result(
        rows=[
            row("gate: boot of a new VM, its last look with it", "s", [w for _, w in create],
                baseline=[wo for wo, _ in create]),
            row("gate: added to a create (p50 at most 0.030)", "s", added["create"]),
            row("gate: boot after a takeover, its last look with it", "s", [w for _, w in failover],
                baseline=[wo for wo, _ in failover]),
            row("gate: added to a failover (p50 at most 0.050)", "s", added["failover"]),
        ],
        raw={"create_s": create, "failover_s": failover},
    )  # fmt: skip


async def _disk(storage: Storage, folder: Path) -> str:
    image, disk = str(uuid.uuid4()), str(uuid.uuid4())
    with (folder / "image.raw").open("wb") as file:
        file.truncate(8 * MIB)
    await storage.import_image(image, str(folder / "image.raw"), None)
    await storage.create_disk(disk, image, 8 * MIB)
    return disk


async def _lost(storage: Storage, settings: StorageSettings, folder: Path) -> str:
    """A disk whose writer was killed and shut out."""
    disk = await _disk(storage, folder)
    source = await storage.disk_source(disk)
    monitors = ";".join(monitor.replace(":", "\\:") for monitor in source.monitors)
    name = f"rbd:{source.path}:id={source.user}:mon_host={monitors}:keyring={settings.keyring}:conf=/dev/null"
    writer = await asyncio.create_subprocess_exec(
        *("qemu-io", "-f", "raw", name), stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    assert writer.stdin is not None
    assert writer.stdout is not None
    writer.stdin.write(b"write 0 4k\n")
    await writer.stdin.drain()
    async with asyncio.timeout(30):
        while b"wrote" not in await writer.stdout.readline():
            pass
    writer.kill()
    await writer.wait()
    for opener in await storage.openers(disk):
        await storage.evict(disk, opener.client, dead=True)
    return disk


async def _pairs(storage: Storage, disk: str, runs: int) -> list[tuple[float, float]]:
    """(without, with), in turns."""
    emulators, found = Emulators(10.0), list[tuple[float, float]]()
    try:
        for _ in range(runs):
            began = time.perf_counter()
            await storage.own_address()
            without = time.perf_counter() - began
            began = time.perf_counter()
            await storage.own_address()
            await emulators.all()
            await storage.openers(disk)
            found.append((without, time.perf_counter() - began))
    finally:
        emulators.close()
    return found
