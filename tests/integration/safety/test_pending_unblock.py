"""CE7 on a real Ceph: an ``osd blocklist rm`` whose client is dead; does it still land, and how late?

The figures are printed and quoted in docs/lab/safety.md; ``METASTACK_SAFETY_ROUNDS``
asks for more of them.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest

from metastack.agent.session.session import PENDING_UNBLOCK_S
from metastack.lab.dev.ceph import Daemon, MiniCeph

pytestmark = [
    pytest.mark.proof,
    pytest.mark.ceph,
    pytest.mark.waits,
    pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root"),
]
ROUNDS = int(os.environ.get("METASTACK_SAFETY_ROUNDS", "12"))
CEPH = "10.79.0.1"
NODES = {"n1": "10.79.0.11", "n2": "10.79.0.12"}


def run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True, timeout=30)


@pytest.fixture(scope="module")
def fabric() -> Iterator[str]:
    base = f"mp{os.getpid()}"
    spaces = [base, *(f"{base}-{n}" for n in NODES)]
    made: list[str] = []
    try:
        for space in spaces:
            run("ip", "netns", "add", space)
            made.append(space)
            run("ip", "-n", space, "link", "set", "lo", "up")
        run("ip", "-n", base, "link", "add", "br0", "type", "bridge")
        run("ip", "-n", base, "addr", "add", f"{CEPH}/24", "dev", "br0")
        # An address of its own: else it takes a port's, and that port's frames arrive without the bridge too.
        run("ip", "-n", base, "link", "set", "br0", "address", "02:79:00:00:00:01", "up")
        for node, address in NODES.items():
            space = f"{base}-{node}"
            run("ip", "-n", base, "link", "add", node, "type", "veth", "peer", "name", "eth0", "netns", space)
            run("ip", "-n", base, "link", "set", node, "master", "br0", "up")
            run("ip", "-n", space, "addr", "add", f"{address}/24", "dev", "eth0")
            run("ip", "-n", space, "link", "set", "eth0", "up")
        yield base
    finally:
        for space in reversed(made):
            run("ip", "netns", "del", space)


@pytest.fixture(scope="module")
def cluster(fabric: str) -> Iterator[MiniCeph]:
    folder = Path(tempfile.mkdtemp(prefix="ms-mon-", dir="/tmp"))
    found = MiniCeph(folder, address=CEPH, v2_port=3300, v1_port=6789, prefix=("ip", "netns", "exec", fabric))

    async def up() -> None:
        await found.create()
        await found.create_pool("vms")
        for node, address in NODES.items():
            await found.create_node_user(node, address)

    try:
        asyncio.run(up())
        yield found
    finally:
        signal_mon(found, signal.SIGCONT)
        asyncio.run(found.destroy())


def signal_mon(cluster: MiniCeph, number: signal.Signals) -> None:
    try:
        text = (cluster.directory / "run" / "mon.a.json").read_bytes()
        os.kill(msgspec.json.decode(text, type=Daemon).pid, number)
    except (FileNotFoundError, ProcessLookupError):
        pass


WATCHER = """\
import sys, json
from metastack.settings import StorageSettings
from metastack.storage.ceph.handle import Handle
from metastack.storage.ceph import fence_addresses
import msgspec
handle = Handle(msgspec.json.decode(sys.argv[1], type=StorageSettings))
print("ready", flush=True)
for line in sys.stdin:
    word, _, address = line.strip().partition(" ")
    if word == "add":
        fence_addresses.add(handle, (address,))
    print(json.dumps(sorted(fence_addresses.entries(handle))), flush=True)
"""


class Watcher:
    """Blocks addresses and reads the blocklist, from an address of its own."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def ask(self, line: str) -> list[str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line.encode() + b"\n")
        async with asyncio.timeout(30):
            return list(msgspec.json.decode(await self._process.stdout.readline()))

    async def listed(self, address: str) -> bool:
        return f"{address}:0/0" in await self.ask("list")

    async def gone_after_s(self, address: str, within_s: float) -> float | None:
        """Seconds until the entry is gone; None when it stays for so long."""
        start = time.monotonic()
        while time.monotonic() - start < within_s:
            if not await self.listed(address):
                return time.monotonic() - start
            await asyncio.sleep(0.02)
        return None


@asynccontextmanager
async def process(fabric: str, node: str, *argv: str) -> AsyncIterator[asyncio.subprocess.Process]:
    found = await asyncio.create_subprocess_exec(
        *("ip", "netns", "exec", f"{fabric}-{node}", sys.executable, *argv),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield found
    finally:
        if found.returncode is None:
            found.kill()
        await found.communicate()


@asynccontextmanager
async def watcher(fabric: str, cluster: MiniCeph) -> AsyncIterator[Watcher]:
    node = list(NODES)[-1]
    settings = msgspec.json.encode(cluster.settings(node)).decode()
    async with process(fabric, node, "-c", WATCHER, settings) as found:
        assert found.stdout is not None
        async with asyncio.timeout(60):
            assert await found.stdout.readline() == b"ready\n"
        yield Watcher(found)


@asynccontextmanager
async def unblocker(fabric: str, cluster: MiniCeph, node: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A connected client that waits for a line before it sends its command."""
    script = str(Path(__file__).with_name("mon_client.py"))
    monitor, keyring = cluster.monitors[0], str(cluster.keyring(node))
    async with process(fabric, node, script, monitor, node, keyring, NODES[node]) as found:
        assert found.stdout is not None
        async with asyncio.timeout(60):
            assert await found.stdout.readline() == b"connected\n"
        yield found


async def send(client: asyncio.subprocess.Process) -> None:
    assert client.stdin is not None and client.stdout is not None
    client.stdin.write(b"go\n")
    async with asyncio.timeout(30):
        assert await client.stdout.readline() == b"sending\n"


async def end(client: asyncio.subprocess.Process) -> None:
    client.kill()
    await client.wait()


def told(what: str, landed: list[float | None]) -> None:
    late = sorted(s for s in landed if s is not None)
    print(
        f"{what}: {len(late)} of {len(landed)} landed"
        + (f", {late[0]:.3f}..{late[-1]:.3f} s late" if late else "")
    )


async def test_killed_right_after_sending(fabric: str, cluster: MiniCeph) -> None:
    node, address = "n1", NODES["n1"]
    landed: list[float | None] = []
    async with watcher(fabric, cluster) as watch:
        for n in range(ROUNDS):
            await watch.ask(f"add {address}")
            async with unblocker(fabric, cluster, node) as client:
                await send(client)
                await asyncio.sleep(random.Random(n).uniform(0, 0.02))
                await end(client)
                landed.append(await watch.gone_after_s(address, 2))
    told("client killed 0..20 ms after it began to send", landed)
    assert all(late is None or late < PENDING_UNBLOCK_S / 4 for late in landed), landed


async def test_monitor_frozen_while_the_client_dies(fabric: str, cluster: MiniCeph) -> None:
    node, address = "n1", NODES["n1"]
    landed: list[float | None] = []
    holds = [0.1, 1.0, 5.0, *([30.0] if ROUNDS >= 100 else [])]
    async with watcher(fabric, cluster) as watch:
        for n in range(ROUNDS):
            await watch.ask(f"add {address}")
            async with unblocker(fabric, cluster, node) as client:
                signal_mon(cluster, signal.SIGSTOP)
                try:
                    await send(client)
                    await asyncio.sleep(0.1)
                    await end(client)
                    await asyncio.sleep(holds[n % len(holds)])
                finally:
                    signal_mon(cluster, signal.SIGCONT)
                landed.append(await watch.gone_after_s(address, 3))
    for at, hold_s in enumerate(holds):
        told(
            f"monitor frozen for {hold_s} s, client killed meanwhile; after the thaw", landed[at :: len(holds)]
        )
    assert all(late is None or late < PENDING_UNBLOCK_S / 4 for late in landed), landed


def sockets(fabric: str, node: str) -> str:
    """TCP connections of a node's namespace to the monitor, as the kernel has them."""
    command = ("ip", "netns", "exec", f"{fabric}-{node}", "ss", "-Htan", "dst", CEPH)
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


async def test_the_kernel_goes_on_sending_for_a_dead_process(fabric: str, cluster: MiniCeph) -> None:
    """A cable is pulled, the command is sent into nothing, its process dies: how long does the kernel try?"""
    node, address = "n1", NODES["n1"]
    async with watcher(fabric, cluster) as watch:
        landed: list[float | None] = []
        for _ in range(ROUNDS // 4):
            await watch.ask(f"add {address}")
            async with unblocker(fabric, cluster, node) as client:
                run("ip", "-n", fabric, "link", "set", node, "nomaster")
                try:
                    await send(client)
                    await asyncio.sleep(0.1)
                    await end(client)
                finally:
                    run("ip", "-n", fabric, "link", "set", node, "master", "br0")
                landed.append(await watch.gone_after_s(address, 3))
        told("cable pulled for a moment while the client died", landed)
        await watch.ask(f"add {address}")
        async with unblocker(fabric, cluster, node) as client:
            run("ip", "-n", fabric, "link", "set", node, "nomaster")
            try:
                await send(client)
                await asyncio.sleep(0.1)
                assert sockets(fabric, node)
                await end(client)
                start = time.monotonic()
                for _ in range(int(2 * PENDING_UNBLOCK_S)):
                    if not (left := sockets(fabric, node)):
                        break
                    await asyncio.sleep(1)
                took_s = time.monotonic() - start
            finally:
                run("ip", "-n", fabric, "link", "set", node, "master", "br0")
            print(f"the kernel gave up after {took_s:.1f} s; left: {left!r}")
            assert not left
            assert took_s < PENDING_UNBLOCK_S
            assert await watch.gone_after_s(address, 3) is None, "nothing is sent after that"
