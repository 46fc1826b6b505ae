"""Fencing on a real Ceph by real nodes: network namespaces with an address and a cephx user each."""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from storage_rig import DEADLINE_S, MIB, new_uuid, raw_image, run, writer

from metastack.lab.dev.ceph import MiniCeph
from metastack.ports import DiskFormat, DiskSource
from metastack.settings import StorageSettings

pytestmark = [
    pytest.mark.ceph,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
CEPH, ADDRESSES = "10.78.0.1", {"n1": "10.78.0.11", "n2": "10.78.0.12"}


@pytest.fixture(scope="module")
def fabric() -> Iterator[str]:
    """A namespace with a bridge, and one for each node; the name of the first."""
    base = f"ms{os.getpid()}"
    spaces = [base, *(f"{base}-{n}" for n in ADDRESSES)]
    try:
        for space in spaces:
            run("ip", "netns", "add", space)
            run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", base, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", base, "addr", "add", f"{CEPH}/24", "dev", "br0")
        run("ip", "-n", base, "link", "set", "br0", "up")
        for node, address in ADDRESSES.items():
            space = f"{base}-{node}"
            run("ip", "-n", base, "link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "-n", base, "link", "set", node, "master", "br0", "up")
            run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
        yield base
    finally:
        for space in reversed(spaces):
            run("ip", "netns", "del", space)


@pytest.fixture(scope="module")
def cluster(fabric: str) -> Iterator[MiniCeph]:
    folder = Path(tempfile.mkdtemp(prefix="ms-fence-", dir="/tmp"))
    found = MiniCeph(folder, address=CEPH, v2_port=3300, v1_port=6789, prefix=("ip", "netns", "exec", fabric))

    async def up() -> None:
        await found.create()
        await found.create_pool("vms")
        await found.create_management_user("cli")
        for node, address in ADDRESSES.items():
            await found.create_node_user(node, address)

    try:
        asyncio.run(up())
        yield found
    finally:
        asyncio.run(found.destroy())


class Client:
    """One call after the other, in a process of the node's namespace."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def __call__(self, name: str, *args: Any) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps([name, args]).encode() + b"\n")
        async with asyncio.timeout(DEADLINE_S):
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        assert line, "the client ended"
        answer: dict[str, Any] = json.loads(line)
        return answer


@asynccontextmanager
async def client(fabric: str, settings: StorageSettings, node: str) -> AsyncIterator[Client]:
    script = Path(__file__).with_name("ceph_client.py")
    process = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", f"{fabric}-{node}", sys.executable, str(script)),
        msgspec.json.encode(settings).decode(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield Client(process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_a_fenced_node_is_out_and_comes_back_by_itself(fabric: str, cluster: MiniCeph) -> None:
    n1, n2 = ADDRESSES["n1"], ADDRESSES["n2"]
    async with (
        client(fabric, cluster.settings("n1"), "n1") as one,
        client(fabric, cluster.settings("n2"), "n2") as two,
    ):
        assert await one("open") == await two("open") == {"value": None}
        assert await one("own_address") == {"value": n1}
        assert await two("own_address") == {"value": n2}
        assert "raised" not in await one("write", "before")
        begun = time.monotonic()
        receipt = (await two("fence", [n1], "n2", "test"))["value"]
        print(f"fence: {(time.monotonic() - begun) * 1000:.0f} ms")
        assert receipt["method"] == "ceph-blocklist"
        assert receipt["addresses"] == [n1]
        assert f"OSD map {receipt['osd_epoch']}" in receipt["verified"]
        assert receipt["osd_epoch"] > 0
        assert (await two("fence", [n1], "n2", "again"))["value"]["osd_epoch"] >= receipt["osd_epoch"]
        # The OSD has the map once somebody who has it asks, as the next writer does (see below).
        assert "raised" not in await two("write", "the first of the next writer")
        # The client that was connected, and one that comes later.
        assert (await one("write", "after"))["raised"] == "Fenced"
        assert (await one("disks"))["raised"] == "Fenced"
        async with client(fabric, cluster.settings("n1"), "n1") as new:
            assert (await new("open"))["raised"] == "Fenced"
            assert await new("blocked", [n1, n2]) == {"value": [n1]}
        assert "raised" not in await two("write", "still here")
        # It may lift its own block and nobody else's.
        assert (await two("unfence", [n1]))["raised"] == "Denied"
        assert await one("blocked", [n1]) == {"value": [n1]}
        assert await one("unfence", [n1]) == {"value": None}
        assert await one("blocked", [n1]) == {"value": []}
        assert "raised" not in await one("write", "back")


async def test_the_fence_frees_the_disk_of_a_dead_node(fabric: str, cluster: MiniCeph, tmp_path: Path) -> None:
    image, disk = new_uuid(), new_uuid()
    raw_image(tmp_path / "a.raw")
    settings = cluster.settings("n1")
    async with client(fabric, cluster.settings("n2"), "n2") as two:
        await two("open")
        assert "raised" not in await two("import_image", image, str(tmp_path / "a.raw"), None)
        await two("create_disk", disk, image, 8 * MIB)
        source = DiskSource(
            kind="rbd",
            format=DiskFormat.RAW,
            path=f"vms/vm-{disk}",
            monitors=settings.monitors,
            user="n1",
        )
        async with writer(source, settings, "ip", "netns", "exec", f"{fabric}-n1"):
            assert await two("locked", disk) == {"value": True}
        assert (await two("delete_disk", disk, 0))["raised"] == "InUse"  # killed, but counted for 30 s
        # Nothing is broken without a fence.
        await two("break_locks", disk, [ADDRESSES["n1"]])
        assert await two("locked", disk) == {"value": True}
        assert "value" in await two("fence", [ADDRESSES["n1"]], "n2", "test")
        begun = time.monotonic()
        assert await two("locked", disk) == {"value": False}
        assert await two("break_locks", disk, [ADDRESSES["n1"]]) == {"value": None}
        assert await two("delete_disk", disk, 0) == {"value": None}
        assert time.monotonic() - begun < 15, "the dead writer's watcher still counted"
    async with client(fabric, cluster.settings("n1"), "n1") as one:
        assert (await one("open"))["raised"] == "Fenced"
        assert await one("unfence", [ADDRESSES["n1"]]) == {"value": None}


async def test_management_may_block_but_not_unblock(fabric: str, cluster: MiniCeph) -> None:
    async with client(fabric, cluster.settings("cli"), "n2") as cli:
        await cli("open")
        assert "value" in await cli("fence", ["10.78.0.99"], "person", "test")
        assert (await cli("unfence", ["10.78.0.99"]))["raised"] == "Denied"


async def test_a_new_address_is_seen_by_new_clients_only(fabric: str, cluster: MiniCeph) -> None:
    """What declaring before a boot rests on: a client is blocked by the address under which it began."""
    old, new, space = ADDRESSES["n1"], "10.78.0.98", f"{fabric}-n1"
    settings = cluster.settings("n1")
    async with client(fabric, settings, "n1") as one, client(fabric, cluster.settings("n2"), "n2") as two:
        assert await one("open") == await two("open") == {"value": None}
        run("ip", "-n", space, "addr", "add", f"{new}/24", "dev", "eth0")
        run("ip", "-n", space, "route", "replace", "10.78.0.0/24", "dev", "eth0", "src", new)
        try:
            begun = time.monotonic()
            assert await one("own_address") == {"value": new}
            print(f"asked where a new client is seen: {(time.monotonic() - begun) * 1000:.0f} ms")
            assert (await one("own_client"))["value"].startswith(f"{old}:")
            # Every connection of the old client is cut: it connects again, from the new address.
            run("ip", "netns", "exec", space, "ss", "-K", "dst", CEPH)
            assert "raised" not in await one("write", "from elsewhere, and still itself")
            peers = run("ip", "netns", "exec", space, "ss", "-Htn", "dst", CEPH)
            assert f"{new}:" in peers, peers
            async with client(fabric, settings, "n1") as late:
                assert await late("open") == {"value": None}
                assert (await late("own_client"))["value"].startswith(f"{new}:")
                await two("fence", [old], "n2", "test")
                # An OSD refuses once it has the map, and it waits for that map before it serves whoever has it:
                # the next writer's first request is the fence, and only what comes after it must be refused.
                assert "raised" not in await two("write", "the first of the next writer")
                assert (await one("write", "x"))["raised"] == "Fenced"
                assert "raised" not in await late("write", "the block of the old address does not reach it")
                await two("fence", [new], "n2", "test")
                assert "raised" not in await two("write", "once more")
                assert (await late("write", "x"))["raised"] == "Fenced"
        finally:
            run("ip", "-n", space, "route", "replace", "10.78.0.0/24", "dev", "eth0", "src", old)
            run("ip", "-n", space, "addr", "del", f"{new}/24", "dev", "eth0")
            run("ip", "netns", "exec", space, "ss", "-K", "dst", CEPH)
        assert (await one("unfence", [new]))["raised"] == "Denied", "its user may lift its own address only"
        was = (await one("own_client"))["value"]
        assert not was.startswith(f"{new}:")
        assert await one("unfence", [old]) == {"value": None}
        assert "raised" not in await one("write", "back")


async def test_an_unblock_that_fails_costs_the_handle_too(fabric: str, cluster: MiniCeph) -> None:
    async with client(fabric, cluster.settings("n1"), "n1") as one:
        assert await one("open") == {"value": None}
        before = (await one("own_client"))["value"]
        assert (await one("unfence", [ADDRESSES["n2"]]))["raised"] == "Denied"
        after = (await one("own_client"))["value"]
        assert before != after
        assert "raised" not in await one("write", "through the new one")
