"""Learning from a real bridge, in a network namespace of its own, and the bounds."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from test_network_frames import arp

from metastack.network.linux import LinuxNetwork
from metastack.network.twin import MemoryNetwork
from metastack.ports import CannotStart

IN_NAMESPACE = """
import asyncio, json, socket, subprocess, sys
sys.path.insert(0, sys.argv[1])
from test_network_frames import MAC, arp, dhcp
from test_network_frames import arp

from metastack.network.linux import LinuxNetwork

def ip(*words):
    subprocess.run(["ip", *words], check=True)

async def main():
    ip("link", "add", "br7", "type", "bridge")
    ip("link", "add", "port", "type", "veth", "peer", "name", "guest")
    ip("link", "set", "port", "master", "br7")
    for link in ("br7", "port", "guest"):
        ip("link", "set", link, "up")
    network = LinuxNetwork()
    changes = network.changes()
    await network.open(("br7", "br8"))
    guest = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    guest.bind(("guest", 0))
    seen = []
    async with asyncio.timeout(20):
        noise = b"\\xff" * 6 + MAC + b"\\x08\\x00" + bytes([0x45] + [0] * 8 + [17] + [0] * 10)
        noise += b"\\0\\x35" * 20
        task = asyncio.ensure_future(changes.__anext__())
        while not task.done():  # the bridge's port needs a moment until it forwards
            guest.send(noise)
            guest.send(arp())
            await asyncio.wait([task], timeout=0.05)
        seen.append(task.result())
        guest.send(dhcp(5, yiaddr=bytes([10, 99, 0, 8])))
        seen.append(await changes.__anext__())
    addresses = network.addresses("52:54:00:12:34:56".upper())
    ip("link", "del", "br7")
    async with asyncio.timeout(20):
        while network._sockets:
            await asyncio.sleep(0.01)
    await network.close()
    print(json.dumps({"seen": seen, "addresses": addresses}))

asyncio.run(main())
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for a network namespace")
def test_a_guest_on_a_bridge_is_learned() -> None:
    done = subprocess.run(
        [
            *("unshare", "--net", "--mount", "sh", "-c", 'mount -t sysfs s /sys && exec "$@"', "sh"),
            *(sys.executable, "-c", IN_NAMESPACE, str(Path(__file__).parent)),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found == {"seen": ["52:54:00:12:34:56"] * 2, "addresses": ["10.99.0.7", "10.99.0.8"]}


async def test_check_names_the_missing_bridge(tmp_path: Path) -> None:
    (tmp_path / "eth0").mkdir()
    (tmp_path / "br0" / "bridge").mkdir(parents=True)
    network = LinuxNetwork(str(tmp_path))
    await network.check("br0")
    for wrong in ("br9", "eth0", "../br0", "", "br0/"):
        with pytest.raises(CannotStart):
            await network.check(wrong)


async def test_a_flood_of_frames_is_looked_at_in_portions() -> None:
    network = LinuxNetwork()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as guest,
    ):
        listener.bind(("127.0.0.1", 0))
        listener.setblocking(False)
        for number in range(200):
            guest.sendto(arp(mac=bytes([2, 0, 0, 0, 0, number])), listener.getsockname())
        changes, seen = network.changes(), set()
        network._sockets["br0"] = listener
        network._read_on("br0", listener)
        begun_s = asyncio.get_running_loop().time()
        async with asyncio.timeout(20):
            while len(seen) < 200:
                seen.add(await anext(changes))
                if len(seen) == 128 + 1:
                    took_s = asyncio.get_running_loop().time() - begun_s
        assert took_s > 0.04, "the second window begins when the first is over"
        network._stop("br0")


async def test_news_and_addresses_are_bounded() -> None:
    network = MemoryNetwork()
    changes = network.changes()
    for number in range(9000):
        network.teach(f"52:54:00:00:{number >> 8:02x}:{number & 255:02x}", "10.0.0.1")
    assert network.addresses("52:54:00:00:00:00") == ()
    for number in range(6):
        network.teach("52:54:00:aa:aa:aa", f"10.0.0.{number}")
    assert network.addresses("52:54:00:aa:aa:aa") == tuple(f"10.0.0.{number}" for number in range(2, 6))
    await network.close()
    with pytest.raises(StopAsyncIteration):
        async with asyncio.timeout(5):
            await anext(changes)
