"""Fencing with three monitors: one is dead, two are dead, the leader hangs; and how long that takes."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from storage_rig import DEADLINE_S, free_address

from metastack.lab.dev.ceph import MiniCeph
from metastack.ports import Unavailable
from metastack.storage.ceph.storage import CephStorage

pytestmark = pytest.mark.ceph
TIMEOUT_S = 5.0


class Three:
    """A mini cluster with two more monitors, on addresses of their own."""

    def __init__(self, folder: Path) -> None:
        self.hosts = {name: free_address() for name in "abc"}
        self.ceph = MiniCeph(folder, address=self.hosts["a"], v2_port=3300, v1_port=6789)

    async def create(self) -> None:
        ceph, folder = self.ceph, self.ceph.directory
        await ceph.create()
        await ceph.create_pool("vms")
        await ceph.create_node_user("n1", "127.0.0.1")
        monmap, keyring = folder / "monmap.now", folder / "mon.now.keyring"
        await ceph.ceph("mon", "getmap", "-o", str(monmap))
        keyring.write_bytes(await ceph.ceph("auth", "get", "mon."))
        for name in "bc":
            mkfs = ("--mkfs", "-i", name, "--monmap", str(monmap), "--keyring", str(keyring))
            await ceph._ceph_daemon("ceph-mon", *mkfs)
            (folder / "mon" / name / "keyring").write_bytes(keyring.read_bytes())
            await self.start(name)
        await self.until_quorum("abc")

    async def start(self, name: str) -> None:
        host = self.hosts[name]
        both = f"[v2:{host}:3300,v1:{host}:6789]"
        await self.ceph._ceph_daemon("ceph-mon", "-i", name, "--public-addrv", both)

    def signal(self, name: str, number: signal.Signals) -> None:
        """To the monitor of that name, when it is ours and alive."""
        file = self.ceph.directory / "run" / f"mon.{name}.pid"
        try:
            pid = int(file.read_text())
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return
        if str(self.ceph.conf).encode() in words:
            os.kill(pid, number)

    async def until_quorum(self, names: str) -> None:
        seen: object = None
        async with asyncio.timeout(DEADLINE_S):
            while seen != list(names):
                try:
                    async with self.client() as storage:
                        status = storage._opened().json("quorum", prefix="quorum_status")
                        seen = sorted(status["quorum_names"])
                except Unavailable as error:
                    seen = str(error)

    @asynccontextmanager
    async def client(self) -> AsyncIterator[CephStorage]:
        settings = msgspec.structs.replace(
            self.ceph.settings("n1", timeout_s=TIMEOUT_S),
            monitors=tuple(f"{host}:6789" for host in self.hosts.values()),
        )
        storage = CephStorage(settings)
        try:
            await storage.open()
            yield storage
        finally:
            await storage.close()


@pytest.fixture(scope="module")
def three() -> Iterator[Three]:
    found = Three(Path(tempfile.mkdtemp(prefix="ms-mons-", dir="/tmp")))
    try:
        asyncio.run(found.create())
        yield found
    finally:
        for name in "bc":
            found.signal(name, signal.SIGCONT)
            found.signal(name, signal.SIGKILL)
        asyncio.run(found.ceph.destroy())


@pytest.fixture
async def storage(three: Three) -> AsyncIterator[CephStorage]:
    await three.until_quorum("abc")
    async with three.client() as found:
        yield found


async def confirmed(storage: CephStorage, address: str) -> tuple[float, int]:
    """Fence until it is confirmed, as an agent does; the seconds it took, and the failures before."""
    begun, failures = time.monotonic(), 0
    async with asyncio.timeout(2 * DEADLINE_S):
        while True:
            try:
                receipt = await storage.fence((address,), "n1", "test")
            except Unavailable as error:
                failures += 1
                print(f"  not confirmed: {error}")
                continue
            listed = json.dumps(receipt.verified)
            assert f"{address}:0/0" in listed
            assert await storage.blocked((address,)) == (address,)
            return time.monotonic() - begun, failures


@pytest.mark.parametrize("victim", ["c", "a"], ids=["a-follower", "the-leader"])
async def test_one_monitor_of_three_is_dead(three: Three, storage: CephStorage, victim: str) -> None:
    assert await storage.unsettled() == ""
    three.signal(victim, signal.SIGKILL)
    try:
        took_s, failures = await confirmed(storage, "192.0.2.10")
        print(f"confirmed {took_s:.2f} s after monitor {victim} died, {failures} failures before")
        assert took_s < 45
        assert f"monitor {victim} takes no part" in await storage.unsettled()
        took_s, failures = await confirmed(storage, "192.0.2.11")
        assert failures == 0
        print(f"the next one: {took_s * 1000:.0f} ms")
    finally:
        await (three.ceph.start() if victim == "a" else three.start(victim))
    await three.until_quorum("abc")
    assert await storage.unsettled() == ""


async def test_without_a_quorum_nothing_is_confirmed(three: Three, storage: CephStorage) -> None:
    for name in "bc":
        three.signal(name, signal.SIGKILL)
    begun = time.monotonic()
    try:
        with pytest.raises(Unavailable) as refused:
            await storage.fence(("192.0.2.12",), "n1", "test")
        took_s = time.monotonic() - begun
        print(f"refused after {took_s:.1f} s: {refused.value}")
        assert took_s < 4 * TIMEOUT_S + 6
    finally:
        for name in "bc":
            await three.start(name)
    await three.until_quorum("abc")
    took_s, failures = await confirmed(storage, "192.0.2.12")
    print(f"with a quorum again: {took_s:.2f} s, {failures} failures")


async def test_a_leader_that_hangs_delays_a_fence_and_no_more(three: Three, storage: CephStorage) -> None:
    three.signal("a", signal.SIGSTOP)
    try:
        took_s, failures = await confirmed(storage, "192.0.2.13")
        print(f"confirmed {took_s:.2f} s after the leader froze, {failures} failures before")
        assert took_s < 90
        assert "monitor a takes no part" in await storage.unsettled()
    finally:
        three.signal("a", signal.SIGCONT)
    await three.until_quorum("abc")
