"""A node is one machine: a key of another boot is waited out, and what proves that somebody renews it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from metastack.agent.cache.informer import Informer
from metastack.agent.session.etcd_history import EtcdHistory
from metastack.agent.session.other_boot import NameTaken, OtherBoot, read_boot_id
from metastack.agent.session.state_files import StateFiles
from metastack.core.model import Claim, NodeAlive, NodeFacts, VmId
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Lease, Put, Transaction
from metastack.lab.sim.engine.loop import run
from metastack.ports import Broken
from metastack.store.twin.cluster import MemoryCluster
from metastack.store.twin.store import MemoryStore

KEYS = Keys()


class World:
    """One etcd, and what a machine sees of it that comes up as n1 with the boot id ``mine``."""

    def __init__(self, folder: Path, boot_id: str = "mine") -> None:
        self.cluster = MemoryCluster()
        self.store = MemoryStore(self.cluster)
        self.informer = Informer(
            self.store, KEYS, EtcdHistory("n1", KEYS, StateFiles(folder)), lambda _keys: None
        )
        self.another = OtherBoot("n1", self.store, self.informer, boot_id)

    async def alive(self, boot_id: str, ttl_s: int = 5) -> Lease:
        lease = await self.store.grant(ttl_s)
        record = encode(NodeAlive(name="n1", boot_id=boot_id, address="10.0.0.1"))
        put = Put(KEYS.node_alive("n1"), record, leased=True)
        await self.store.commit(Transaction(name="other", guards=(), effects=(put,), lease=lease.id))
        return lease

    async def facts(self, boot_id: str) -> None:
        for key, record in (
            (KEYS.node_facts("n1"), NodeFacts(name="n1", uuid="u", boot_id=boot_id)),
            (KEYS.claim(VmId("p", "vm")), Claim(node="n1", session=1, uuid="v", volume_uuid="d", claim_id="c")),
        ):
            await self.store.commit(Transaction(name="other", guards=(), effects=(Put(key, encode(record)),)))

    async def refused(self) -> str:
        await self.informer.look()
        self.another.observe()
        try:
            await self.another.refuse()
        except NameTaken as error:
            return str(error)
        return ""

    async def comes_after(self, limit_s: float = 100) -> float:
        began_s = asyncio.get_running_loop().time()
        while await self.refused():
            await asyncio.sleep(0.5)
            assert asyncio.get_running_loop().time() - began_s < limit_s
        return asyncio.get_running_loop().time() - began_s


@pytest.mark.parametrize("boot_id", ["mine", ""])
def test_an_own_key_is_not_waited_for(tmp_path: Path, boot_id: str) -> None:
    async def story() -> None:
        world = World(tmp_path)
        await world.alive(boot_id)
        assert not await world.refused()

    run(story())


def test_a_key_of_another_boot_is_waited_out(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        await world.alive("other", ttl_s=60)
        assert 59 < await world.comes_after() < 63
        assert "another machine" not in await world.refused()

    run(story())


def test_a_machine_that_renews_the_key_stays_alive(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        lease = await world.alive("other")
        said = ""
        for _ in range(8):
            said = await world.refused()
            await asyncio.sleep(1)
            lease = await world.store.renew(lease)
        assert "another machine at 10.0.0.1 (boot other) runs an agent under the name n1" in said
        assert world.cluster.get(KEYS.node_alive("n1")) is not None
        assert await world.comes_after() > 30, "it had no time to come back"

    run(story())


def test_a_key_that_is_overdue_proves_nobody_alive(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        await world.alive("other", ttl_s=2)
        texts = set()
        while said := await world.refused():
            texts.add(said)
            await asyncio.sleep(0.1)
        assert not [text for text in texts if "another machine at" in text]

    run(story())


def test_a_record_that_nobody_can_read_is_waited_out_too(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        lease = await world.store.grant(5)
        put = Put(KEYS.node_alive("n1"), b'{"v":99}', leased=True)
        await world.store.commit(Transaction(name="other", guards=(), effects=(put,), lease=lease.id))
        assert 4 < await world.comes_after() < 7

    run(story())


def test_claims_of_another_boot_are_fenced_first(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        await world.facts("other")
        assert 2.5 < await world.comes_after() < 4, "alone: a moment"
        await world.store.commit(
            Transaction(
                name="other",
                guards=(),
                effects=(Put(KEYS.node_alive("n2"), encode(NodeAlive(name="n2", ready=True))),),
            )
        )
        other = World(tmp_path)
        other.store, other.informer = world.store, world.informer
        other.another = OtherBoot("n1", world.store, world.informer, "mine")
        assert 9 < await other.comes_after() < 11, "beside a node that can fence: longer"

    run(story())


def test_claims_of_this_boot_are_not_waited_for(tmp_path: Path) -> None:
    async def story() -> None:
        world = World(tmp_path)
        await world.facts("mine")
        assert not await world.refused()

    run(story())


def test_boot_id_is_read_or_refused_by_name(tmp_path: Path) -> None:
    file = tmp_path / "boot_id"
    with pytest.raises(Broken, match=r"boot_id_file: .*boot_id cannot be read"):
        read_boot_id(str(file))
    file.write_text("\n")
    with pytest.raises(Broken, match="is empty"):
        read_boot_id(str(file))
    file.write_text("abc\n")
    assert read_boot_id(str(file)) == "abc"
    assert len(read_boot_id("/proc/sys/kernel/random/boot_id")) == 36
