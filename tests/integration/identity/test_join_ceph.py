"""A host joins a cluster on Ceph: its cephx user opens the pool, and nothing after the node was removed."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from join_site import Site
from msgspec.structs import replace
from secured_etcd import Secured

from metastack.agent.settings import load
from metastack.lab.dev.ceph import MiniCeph, new_address
from metastack.ports import Denied, Storage, Unavailable
from metastack.storage.ceph.rights import flat, user_maker
from metastack.storage.choose import build

pytestmark = [pytest.mark.etcd, pytest.mark.ceph]
ADDRESS = "127.0.0.1"


@pytest.fixture(scope="module")
def ceph() -> Iterator[MiniCeph]:
    folder = Path(tempfile.mkdtemp(prefix="ms-ceph-", dir="/tmp"))
    made = MiniCeph(folder, address=new_address(), v2_port=3300, v1_port=6789)

    async def up() -> None:
        await made.create()
        await made.create_pool("vms")
        await made._keep("pki", flat(user_maker()))

    try:
        asyncio.run(up())
        yield made
    finally:
        asyncio.run(made.destroy())


def storage(ceph: MiniCeph) -> dict[str, Any]:
    keyring = str(ceph.keyring("pki"))
    return {"kind": "ceph", "pool": "vms", "monitors": list(ceph.monitors), "user": "pki", "keyring": keyring}


@pytest.fixture
async def site(ceph: MiniCeph, secured: Secured) -> Site:
    made = Site(secured, storage(ceph))
    await made.begin()
    return made


def as_node(root: Path) -> Storage:
    """The storage by what the join wrote."""
    settings = load(root / "etc/metastack/agent.toml", {})
    assert settings.storage_addresses == (ADDRESS,)
    assert settings.storage.keyring == "/etc/metastack/ceph.keyring"
    return build(replace(settings.storage, keyring=str(root / "etc/metastack/ceph.keyring")))


async def test_a_node_opens_the_pool_until_it_is_removed(site: Site, tmp_path: Path, ceph: MiniCeph) -> None:
    async with site.serving():
        token = await site.token("n1", "--host", ADDRESS, "--storage-address", ADDRESS)
        assert (await site.join(token, tmp_path)).status == 0
        node = as_node(tmp_path)
        await node.open()
        await node.fence(("10.9.9.1",), "n1", "a test")
        with pytest.raises(Denied):
            await node.unfence(("10.9.9.1",))
        await node.close()
        removed = await site.run("node", "remove", "n1", "--yes", "--reason", "sold", "-o", "json")
        assert removed.json()["credentials"] == "revoked"
    with pytest.raises((Denied, Unavailable)):
        await as_node(tmp_path).open()
    assert b"metastack-node-n1" not in await ceph.ceph("auth", "ls")
    # What a fence blocked stays blocked: the removal undoes no fence.
    assert b"10.9.9.1" in await ceph.ceph("osd", "blocklist", "ls")
    await ceph.ceph("osd", "blocklist", "clear")


async def test_a_join_waits_for_nothing_when_ceph_refuses(site: Site, tmp_path: Path, ceph: MiniCeph) -> None:
    """The storage user cannot be made: the host learns why, the token is not spent, the same join succeeds."""
    async with site.serving():
        token = await site.token("n1", "--host", ADDRESS, "--storage-address", ADDRESS)
        await ceph.ceph("auth", "caps", "client.pki", "mon", "allow r")
        refused = await site.join(token, tmp_path)
        await ceph.ceph("auth", "caps", "client.pki", *flat(user_maker()))
        assert "the storage user could not be made" in refused.error()["message"]
        assert "the token is not spent" in refused.error()["hint"]
        assert (await site.join(token, tmp_path)).status == 0
