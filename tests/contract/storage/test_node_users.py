"""Storage users of nodes: on a real Ceph and in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from metastack.lab.dev.ceph import MiniCeph
from metastack.ports import Broken, Denied, Refused, Storage, Unavailable
from metastack.ports.accounts import NodeStorageUsers
from metastack.settings import StorageSettings
from metastack.storage.ceph.rights import flat, user_maker
from metastack.storage.choose import build
from metastack.storage.node_users import MemoryUsers, NoUsers, node_users


async def maker(ceph: MiniCeph) -> StorageSettings:
    """Of the least user that `pki serve` needs, as docs/guide/install.md makes it."""
    await ceph._keep("pki", flat(user_maker()))
    return ceph.settings("pki")


@pytest.fixture(params=["memory", pytest.param("ceph", marks=pytest.mark.ceph)])
def kind(request: pytest.FixtureRequest) -> MiniCeph | None:
    # Not asynchronous: Ceph starts on a loop of its own.
    return request.getfixturevalue("ceph") if request.param == "ceph" else None


@pytest.fixture
async def made(kind: MiniCeph | None) -> AsyncIterator[NodeStorageUsers]:
    users = MemoryUsers() if kind is None else node_users(await maker(kind))
    yield users
    await users.close()


async def test_the_same_user_again_has_the_same_key(made: NodeStorageUsers) -> None:
    first = await made.make("metastack-node-n1-aa", ("10.0.0.1",))
    assert first.user == "metastack-node-n1-aa"
    assert first.key
    assert await made.make("metastack-node-n1-aa", ("10.0.0.2", "fd00::1")) == first
    other = await made.make("metastack-node-n1-bb", ())
    assert other.key != first.key
    assert first.key not in repr(first)


async def test_a_removed_user_comes_back_with_another_key(made: NodeStorageUsers) -> None:
    first = await made.make("metastack-node-n2-aa", ("10.0.0.1",))
    await made.remove("metastack-node-n2-aa")
    await made.remove("metastack-node-n2-aa")
    assert await made.make("metastack-node-n2-aa", ("10.0.0.1",)) != first


async def test_storage_without_users_makes_none() -> None:
    users = node_users(StorageSettings(kind="file", directory="/x"))
    assert isinstance(users, NoUsers)
    assert (await users.make("metastack-node-n1-aa", ())).user == ""


async def as_node(
    ceph: MiniCeph, users: NodeStorageUsers, name: str, tmp_path: Path, *addresses: str
) -> Storage:
    user = await users.make(name, addresses)
    keyring = tmp_path / name
    keyring.write_text(f"[client.{user.user}]\n\tkey = {user.key}\n")
    settings = replace(ceph.settings("cli"), user=user.user, keyring=str(keyring))
    storage = build(settings)
    await storage.open()
    return storage


@pytest.mark.ceph
async def test_a_node_lifts_its_own_block_and_no_other(ceph: MiniCeph, tmp_path: Path) -> None:
    users = node_users(await maker(ceph))
    node = await as_node(ceph, users, "metastack-node-n3-aa", tmp_path, "10.9.9.1", "fd00::9")
    try:
        for address in ("10.9.9.1", "fd00::9", "10.9.9.2"):
            await node.fence((address,), "n3", "a test")
        await node.unfence(("10.9.9.1",))
        await node.unfence(("fd00::9",))
        with pytest.raises((Denied, Refused)):
            await node.unfence(("10.9.9.2",))
    finally:
        await node.close()
        await ceph.ceph("osd", "blocklist", "clear")
        await users.close()


@pytest.mark.ceph
async def test_a_removed_user_opens_nothing(ceph: MiniCeph, tmp_path: Path) -> None:
    users = node_users(await maker(ceph))
    node = await as_node(ceph, users, "metastack-node-n4-aa", tmp_path, "10.9.9.1")
    await node.close()
    await users.remove("metastack-node-n4-aa")
    name = "metastack-node-n4-aa"
    again = build(replace(ceph.settings("cli"), user=name, keyring=str(tmp_path / name)))
    with pytest.raises((Denied, Unavailable)):
        await again.open()
    await again.close()
    await users.close()


@pytest.mark.ceph
async def test_the_maker_touches_no_user_of_people(ceph: MiniCeph) -> None:
    settings = await maker(ceph)
    users = node_users(settings)
    with pytest.raises(Broken, match="no node's user of ours"):
        await users.remove("cli")
    # Its own key, outside of the program.
    command = ("-n", "client.pki", "-k", settings.keyring, "auth")
    for words in (("rm", "client.cli"), ("get", "client.admin"), ("caps", "client.cli", "mon", "allow *")):
        with pytest.raises(Unavailable, match=r"EACCES|denied"):
            await ceph.ceph(*command, *words)
    assert await ceph.ceph("auth", "get", "client.cli")
    await users.close()


@pytest.mark.ceph
async def test_a_user_without_the_right_is_refused(ceph: MiniCeph) -> None:
    users = node_users(ceph.settings("cli"))
    with pytest.raises(Denied, match=r"client\.metastack-node-n5-aa"):
        await users.make("metastack-node-n5-aa", ("10.9.9.1",))
    await users.close()
