"""Create → running, one VM at a time on three nodes, against a bare ``virsh create`` of the same XML.

A sample begins when the person's command begins and ends when the node's published status says that the domain
runs. The baseline boots the same XML (another UUID and name, none of our metadata) from a clone that was made
before; the clone's own time is a row of its own. Runs of both alternate.
"""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
import uuid
from pathlib import Path

from bench.harness import Result, row, say
from bench.lab import IMAGE, Lab, lab
from metastack.core.state.keys import Kind
from metastack.lab.netns import inside
from metastack.ports import Storage
from metastack.storage.choose import build

RUNS = 30
MARGIN_S = 0.3
MOST_WRITES = 4
OURS = (Kind.VM_SPEC, Kind.CLAIM, Kind.VM_STATUS, Kind.VOLUME, Kind.HALT, Kind.HISTORY)


def run(runs: int | None = None) -> Result:
    return asyncio.run(_run(runs or RUNS))


async def _run(runs: int) -> Result:
    ours: list[float] = []
    bare: list[float] = []
    clones: list[float] = []
    writes: list[float] = []
    async with lab() as cluster:
        with inside(str(cluster.cluster.layout.fabric)):
            storage = build(cluster.cluster.storage_settings())
            await storage.open()
        try:
            image = cluster.world.image(IMAGE)
            assert image is not None
            for n in range(runs):
                node = f"n{n % 3 + 1}"
                xml = await _ours(cluster, f"bench-{n}", node, ours, writes)
                await _bare(cluster, storage, image.ok.uuid, node, xml, bare, clones)
                if n % 10 == 9:
                    say(f"  {n + 1} of {runs}")
        finally:
            await storage.close()
    return Result(
        rows=[
            row("boot: create to running", "s", ours, baseline=bare, above_baseline=MARGIN_S),
            row("boot: clone of the disk (in ours, not in the baseline)", "s", clones),
            row("boot: write transactions, command to running", "1", writes, limit=MOST_WRITES),
        ],
        raw={"ours_s": ours, "bare_s": bare, "clone_s": clones, "writes": writes},
    )


async def _ours(cluster: Lab, name: str, node: str, samples: list[float], writes: list[float]) -> str:
    """One VM from command to running; its XML."""
    start, first = time.monotonic(), len(cluster.log)
    vm = await cluster.create(name, node=node)
    samples.append(await cluster.running(vm) - start)
    touched = {
        event.revision
        for _, event in cluster.log[first:]
        if (parsed := cluster.person.keys.parse(event.key)) is not None and parsed.kind in OURS
    }
    writes.append(len(touched))
    spec = cluster.world.spec(vm)
    assert spec is not None
    xml = await asyncio.to_thread(
        _virsh, cluster, node, "dumpxml", "--inactive", "--security-info", spec.ok.uuid
    )
    await cluster.delete(vm)
    return xml


async def _bare(
    cluster: Lab, storage: Storage, image: str, node: str, xml: str, samples: list[float], clones: list[float]
) -> None:
    """The same machine by hand, on a clone made before the clock starts."""
    disk, domain = str(uuid.uuid4()), str(uuid.uuid4())
    began = time.monotonic()
    await storage.create_disk(disk, image, 35 << 20)
    clones.append(time.monotonic() - began)
    source = await storage.disk_source(disk)
    text = re.sub(r"<metadata.*?</metadata>", "", xml, flags=re.DOTALL)
    text = re.sub(r"<uuid>.*?</uuid>", f"<uuid>{domain}</uuid>", text, count=1)
    text = re.sub(r"<name>.*?</name>", f"<name>bare-{domain[:8]}</name>", text, count=1)
    text = re.sub(r"(<source protocol='rbd' name=)'[^']*'", rf"\1'{source.path}'", text)
    text = re.sub(r"(socket=)'[^']*'", "", text)
    path = Path(cluster.cluster.layout.folder) / f"{domain}.xml"
    path.write_text(text)
    start = time.monotonic()
    await asyncio.to_thread(_virsh, cluster, node, "create", str(path))
    samples.append(time.monotonic() - start)
    await asyncio.to_thread(_virsh, cluster, node, "destroy", domain)
    path.unlink()
    async with asyncio.timeout(60):
        while await storage.locked(disk):  # noqa: ASYNC110 - Ceph has no event for a watcher that leaves
            await asyncio.sleep(0.1)
    await storage.delete_disk(disk, 0)


def _virsh(cluster: Lab, node: str, *words: str) -> str:
    uri = cluster.cluster.host(node).libvirt_uri
    done = subprocess.run(
        ["virsh", "-q", "-c", uri, *words], capture_output=True, text=True, timeout=60, check=False
    )
    if done.returncode:
        raise RuntimeError(f"virsh {' '.join(words)}: {done.stderr}")
    return done.stdout
