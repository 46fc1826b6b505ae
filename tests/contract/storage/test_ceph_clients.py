"""Nodes that share a storage address, fenced by single clients on a real Ceph: what that reaches, what not.

All nodes here live in one network namespace: to Ceph they differ by port and nonce alone.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
from storage_rig import DEADLINE_S, MIB, new_uuid, raw_image, writer

from metastack.lab.dev.ceph import MiniCeph
from metastack.ports import Clients, Denied, DiskFormat, DiskSource, Fenced, Unavailable
from metastack.storage.ceph import fence_clients as ceph_clients
from metastack.storage.ceph.handle import read_key
from metastack.storage.ceph.rights import NO_RIGHTS, flat, guest_rights
from metastack.storage.ceph.storage import CephStorage

pytestmark = pytest.mark.ceph


@asynccontextmanager
async def opened(cluster: MiniCeph, user: str) -> AsyncIterator[CephStorage]:
    storage = CephStorage(cluster.settings(user))
    try:
        await storage.open()
        yield storage
    finally:
        await storage.close()


@pytest.fixture
async def nodes(ceph: MiniCeph) -> AsyncIterator[dict[str, CephStorage]]:
    """``a`` and ``b`` have users for their guests; ``plain`` has not."""
    address = ceph.address
    async with AsyncExitStack() as stack:
        for name, guests in (("a", True), ("b", True), ("plain", False)):
            if not ceph.keyring(name).exists():
                await ceph.create_node_user(name, address, guests=guests)
            storage = await stack.enter_async_context(opened(ceph, name))
            if storage.guest_user and await storage.blocked((f"client.{storage.guest_user}",)):
                await storage.unfence((f"client.{storage.guest_user}",))
        yield {name: await stack.enter_async_context(opened(ceph, name)) for name in ("a", "b", "plain")}


@pytest.fixture
async def disk(nodes: dict[str, CephStorage], tmp_path: Path) -> str:
    image, uuid = new_uuid(), new_uuid()
    raw_image(tmp_path / "a.raw")
    await nodes["b"].import_image(image, str(tmp_path / "a.raw"), None)
    await nodes["b"].create_disk(uuid, image, 8 * MIB)
    return uuid


def source_of(ceph: MiniCeph, user: str, disk: str) -> DiskSource:
    return DiskSource(
        kind="rbd", format=DiskFormat.RAW, path=f"vms/vm-{disk}", monitors=ceph.monitors, user=user
    )


def settings_of(ceph: MiniCeph, user: str) -> Any:
    return msgspec.structs.replace(ceph.settings("cli"), user=user, keyring=str(ceph.keyring(user)))


async def clients_of(storage: CephStorage, disk: str, *others: CephStorage) -> Clients:
    return Clients(
        declared=(await storage.own_client(),),
        disks=(disk, new_uuid()),
        guest_user=storage.guest_user,
        spared=tuple([await other.own_client() for other in others]),
    )


async def said(process: asyncio.subprocess.Process, line: str = "") -> str:
    assert process.stdin
    assert process.stdout
    if line:
        process.stdin.write(line.encode() + b"\n")
        await process.stdin.drain()
    async with asyncio.timeout(DEADLINE_S):
        return (await process.stdout.readline()).decode().strip()


@asynccontextmanager
async def late_guest(ceph: MiniCeph, user: str, disk: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """A client that has its ticket, and no disk open yet."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(Path(__file__).with_name("late_guest.py")), ceph.monitors[0], user),
        *(read_key(user, str(ceph.keyring(user))), "vms", f"vm-{disk}"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert (await said(process)).startswith("connected")
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def test_single_clients_are_out_and_their_neighbour_is_not(
    ceph: MiniCeph, nodes: dict[str, CephStorage], disk: str
) -> None:
    one, two = nodes["a"], nodes["b"]
    assert await one.own_address() == await two.own_address()
    source, settings = source_of(ceph, "a-guests", disk), settings_of(ceph, "a-guests")
    async with writer(source, settings) as guest:
        assert await two.locked(disk)
        begun = time.monotonic()
        receipt = await two.fence_clients(await clients_of(one, disk, two), "b", "test")
        print(f"fence of {len(receipt.clients)} clients: {(time.monotonic() - begun) * 1000:.0f} ms")
        assert (receipt.method, receipt.users, receipt.addresses) == (
            "ceph-blocklist-clients",
            ("a-guests",),
            (),
        )
        assert await one.own_client() in receipt.clients
        assert len(receipt.clients) == 2, receipt
        assert "a-guests has lost its rights" in receipt.verified
        assert not await two.locked(disk), "a client that is shut out does not count"
        assert guest.stdin and guest.stdout
        guest.stdin.write(b"write -P 7 2M 4k\nflush\n")
        await guest.stdin.drain()
        async with asyncio.timeout(DEADLINE_S):
            assert b"failed" in await guest.stdout.readline()
    with pytest.raises(Fenced):
        await one.disks()
    # A new client of its guests is refused, in milliseconds.
    begun = time.monotonic()
    with pytest.raises(AssertionError, match="Operation not permitted"):
        async with writer(source, settings):
            pass
    print(f"a new guest is refused after {(time.monotonic() - begun) * 1000:.0f} ms")
    # The neighbour at the same address, and its guests, go on.
    assert disk in await two.disks()
    await two.break_locks(disk, (await two.own_address(),))
    async with writer(source_of(ceph, "b-guests", disk), settings_of(ceph, "b-guests")):
        pass
    # It comes back by itself: another client, and rights for its guests.
    old = await one.own_client()
    async with opened(ceph, "a") as again:
        assert set(await again.blocked((old, "client.a-guests", ceph.address))) == {old, "client.a-guests"}
        await again.unfence((old, "client.a-guests"))
        assert await again.blocked((old, "client.a-guests")) == (old,), "the dead client stays out"
        assert disk in await again.disks()
        await again.fence_clients(Clients(declared=(await two.own_client(),)), "a", "spare nobody")
        async with writer(source, settings):
            pass


async def test_a_clients_ticket_outlives_its_rights(
    ceph: MiniCeph, nodes: dict[str, CephStorage], disk: str
) -> None:
    one, two = nodes["a"], nodes["b"]
    ttl = ("config", "set", "mon", "auth_service_ticket_ttl")
    await ceph.ceph(*ttl, "10")
    try:
        async with late_guest(ceph, "a-guests", disk) as early, late_guest(ceph, "a-guests", disk) as late:
            begun = time.monotonic()
            await two.fence_clients(await clients_of(one, disk, two), "b", "test")
            assert await said(early, "now") == "wrote", (
                "better than documented: correct docs/internals/safety.md"
            )
            # A new look finds it, as long as it has the disk open; the other one has only its ticket.
            await asyncio.sleep(begun + 15 - time.monotonic())
            assert await said(late, "now") == "PermissionError"
    finally:
        await ceph.ceph("config", "rm", "mon", "auth_service_ticket_ttl")


async def test_the_receipt_says_that_new_guests_are_not_refused(
    ceph: MiniCeph, nodes: dict[str, CephStorage], disk: str
) -> None:
    receipt = await nodes["b"].fence_clients(await clients_of(nodes["plain"], disk, nodes["b"]), "b", "test")
    assert receipt.users == ()
    assert "NEW CLIENTS ARE NOT REFUSED" in receipt.verified
    async with writer(source_of(ceph, "plain", disk), settings_of(ceph, "plain")):
        assert await nodes["b"].locked(disk), "which is what holds the next owner's boot back"


async def test_a_fence_with_ever_new_clients_is_not_confirmed(
    ceph: MiniCeph, nodes: dict[str, CephStorage], disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers = itertools.count(1)
    monkeypatch.setattr(ceph_clients, "_openers", lambda _handle, _disk: {f"127.9.9.9:0/{next(numbers)}"})
    with pytest.raises(Unavailable, match="new clients still open its disks"):
        await nodes["b"].fence_clients(await clients_of(nodes["plain"], disk, nodes["b"]), "b", "test")


async def test_the_rights_of_a_node_reach_no_further(ceph: MiniCeph, nodes: dict[str, CephStorage]) -> None:
    user = ("-n", "client.a", "-k", str(ceph.keyring("a")))
    whole = {**guest_rights("vms"), "osd": "allow *"}
    for entity, rights in (
        ("client.b-guests", guest_rights("vms")),  # another's back
        ("client.a-guests", whole),  # its own, and more
        ("client.b", NO_RIGHTS),  # an agent's
        ("client.admin", NO_RIGHTS),
    ):
        with pytest.raises(Unavailable, match="EACCES"):
            await ceph.ceph(*user, "auth", "caps", entity, *flat(rights))
    with pytest.raises(Unavailable, match="EACCES"):
        await ceph.ceph(*user, "auth", "get", "client.b-guests")


async def test_an_attacker_on_such_a_node_can_take_every_right(
    ceph: MiniCeph, nodes: dict[str, CephStorage]
) -> None:
    """The monitor compares the last of two capabilities of a kind and carries out the first (Ceph 16.2.15)."""
    user = ("-n", "client.a", "-k", str(ceph.keyring("a")))
    await ceph.ceph(*user, "auth", "caps", "client.a-guests", "mon", "allow *", *flat(guest_rights("vms")))
    found = json.loads(await ceph.ceph("auth", "get", "client.a-guests", "-f", "json"))
    assert found[0]["caps"]["mon"] == "allow *", "Ceph has mended this: say so in docs/internals/safety.md"
    await nodes["a"].unfence(("client.a-guests",))
    found = json.loads(await ceph.ceph("auth", "get", "client.a-guests", "-f", "json"))
    assert found[0]["caps"] == guest_rights("vms")


async def test_a_node_finds_out_what_its_user_may_do(ceph: MiniCeph, nodes: dict[str, CephStorage]) -> None:
    assert await nodes["a"].rights() == ()
    assert await nodes["plain"].rights() == ()
    caps = {"weak": "allow r", "wide": "allow *"}
    for name, mon in caps.items():
        text = await ceph.ceph("auth", "get-or-create", f"client.{name}", "mon", mon, "osd", "allow *")
        ceph.keyring(name).write_bytes(text)
    async with opened(ceph, "weak") as weak, opened(ceph, "wide") as wide:
        (found,) = await weak.rights()
        assert "may not block clients" in found
        (found,) = await wide.rights()
        assert "may lift every block" in found
        with pytest.raises(Denied, match=r"client\.weak"):
            await weak.fence(("192.0.2.7",), "test", "a user without the right")
        with pytest.raises(Denied, match=r"client\.weak"):
            await weak.fence_clients(Clients(declared=("192.0.2.7:0/7",)), "test", "the same")
