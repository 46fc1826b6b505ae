"""Which storage a cluster has: recorded, marked, refused and adopted, on both stores."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest
from commands_rig import Rig, request
from msgspec.structs import replace

from metastack.commands.cluster.storage import adopt_storage, init_storage, look_at_storage
from metastack.commands.doctor import examine
from metastack.commands.doctor.facts import Severity, ask_storage, collect
from metastack.commands.problem import Problem
from metastack.core.model import NodeAlive, StorageIdentity, StoragePlace
from metastack.core.state.codec import decode
from metastack.core.transaction import Delete, Put, Transaction
from metastack.ports import Denied, StorageOwner
from metastack.settings import StorageSettings
from metastack.storage.files.storage import FileStorage
from metastack.storage.twin import MemoryPool, MemoryStorage


def client(pool: MemoryPool) -> MemoryStorage:
    return MemoryStorage(pool, "10.0.0.9")


async def record(rig: Rig) -> StorageIdentity:
    entry = await rig.store.get(rig.keys.storage())
    assert entry is not None
    return decode(StorageIdentity, entry.value)


async def found(rig: Rig, pool: MemoryPool) -> list[tuple[str, Severity]]:
    facts = await collect(rig.cluster, "1", datetime.now(UTC))
    await ask_storage(facts, client(pool), "cli")
    return [(f.object, f.severity) for f in examine(facts) if f.check == "storage_owner"]


async def test_a_storage_of_nobody_is_recorded_and_marked_once(rig: Rig) -> None:
    pool = MemoryPool()
    assert (await look_at_storage(rig.cluster, client(pool))).state == "unnamed"
    assert await found(rig, pool) == [("storage", Severity.WARNING)]
    view = await init_storage(rig.cluster, request("new"), client(pool))
    assert (view.state, view.trouble) == ("ok", None)
    said = await record(rig)
    assert said.place == pool.place
    assert pool.owner is not None
    assert (pool.owner.cluster_id, pool.owner.root) == (said.cluster_id, rig.keys.root)
    assert await found(rig, pool) == []
    again = await init_storage(rig.cluster, request("again"), client(pool))
    assert (again.state, await record(rig)) == ("ok", said)


async def test_what_died_between_record_and_mark_is_finished(rig: Rig) -> None:
    pool = MemoryPool()
    await init_storage(rig.cluster, request(), client(pool))
    said, pool.owner = await record(rig), None
    assert await found(rig, pool) == [("storage", Severity.WARNING)]
    assert (await init_storage(rig.cluster, request(), client(pool))).state == "ok"
    assert pool.owner is not None
    assert pool.owner.cluster_id == said.cluster_id


async def test_taking_another_clusters_storage_needs_a_reason(rig: Rig) -> None:
    other = StorageOwner(id="pool-1", cluster_id="another", root="/elsewhere", by="root@old")
    pool = MemoryPool(owner=other)
    with pytest.raises(Problem, match="belongs to cluster another") as refused:
        await init_storage(rig.cluster, request(), client(pool))
    assert "adopt" in refused.value.hint
    assert await rig.store.get(rig.keys.storage()) is None
    assert pool.owner == other
    assert await found(rig, pool) == [("storage", Severity.ERROR)]
    with pytest.raises(Problem, match="needs a reason"):
        await adopt_storage(rig.cluster, request(), client(pool))
    view = await adopt_storage(rig.cluster, request("etcd was rebuilt"), client(pool))
    assert (view.state, view.reason) == ("ok", "etcd was rebuilt")
    assert pool.owner is not None
    assert (pool.owner.id, pool.owner.root) == ("pool-1", rig.keys.root)
    assert pool.owner.cluster_id == (await record(rig)).cluster_id != "another"


async def test_a_storage_with_the_same_root_keeps_its_cluster_id(rig: Rig) -> None:
    await init_storage(rig.cluster, request(), client(MemoryPool()))
    mine = (await record(rig)).cluster_id
    pool = MemoryPool(owner=StorageOwner(id="pool-1", cluster_id="another", root=rig.keys.root, by="root@old"))
    assert (await adopt_storage(rig.cluster, request("why"), client(pool))).state == "ok"
    assert pool.owner is not None
    assert pool.owner.cluster_id == (await record(rig)).cluster_id == mine


async def test_an_adopting_cluster_keeps_its_own_id(rig: Rig) -> None:
    await init_storage(rig.cluster, request(), client(MemoryPool()))
    mine = (await record(rig)).cluster_id
    elsewhere = MemoryPool(place=StoragePlace(kind="memory", fsid="other", pool="vms", pool_id=7))
    with pytest.raises(Problem, match="is not the storage of this cluster: fsid"):
        await init_storage(rig.cluster, request(), client(elsewhere))
    assert (await look_at_storage(rig.cluster, client(elsewhere))).state == "unmarked"
    assert (await adopt_storage(rig.cluster, request("moved"), client(elsewhere))).state == "ok"
    said = await record(rig)
    assert (said.place, said.cluster_id) == (elsewhere.place, mine)


@pytest.mark.parametrize("unreadable", [False, True])
async def test_an_older_etcd_gets_its_storage_id_back(rig: Rig, unreadable: bool) -> None:
    pool = MemoryPool()
    await init_storage(rig.cluster, request(), client(pool))
    mine, owner = (await record(rig)).cluster_id, pool.owner
    effect = Put(rig.keys.storage(), b"{") if unreadable else Delete(rig.keys.storage())
    await rig.store.commit(Transaction(name="restored", guards=(), effects=(effect,)))
    with pytest.raises(Problem, match=r"belongs to cluster|cannot be read"):
        await init_storage(rig.cluster, request(), client(pool))
    assert (await adopt_storage(rig.cluster, request("restored"), client(pool))).state == "ok"
    assert ((await record(rig)).cluster_id, pool.owner) == (mine, owner)
    said = [event.message for event in await rig.events() if event.what == "cluster.storage_adopt"]
    assert "instead of" not in said[-1]


async def test_a_context_with_another_storage_than_the_nodes_names_none(rig: Rig) -> None:
    await rig.node("n1")
    entry = await rig.store.get(rig.keys.node_alive("n1"))
    assert entry is not None
    alive = replace(decode(NodeAlive, entry.value), storage="ceph")
    await rig.put(rig.keys.node_alive("n1"), alive)
    for command in (init_storage, adopt_storage):
        with pytest.raises(Problem, match="kind ceph on node n1"):
            await command(rig.cluster, request("why"), client(MemoryPool()))


async def test_a_folder_gets_an_id_of_its_own(rig: Rig, tmp_path: Path) -> None:
    storage = FileStorage(StorageSettings(kind="file", directory=str(tmp_path)))
    await storage.open()
    view = await init_storage(rig.cluster, request(), storage)
    said, owner = await record(rig), await storage.owner()
    assert owner is not None
    assert (view.state, said.place) == ("ok", StoragePlace(kind="file", fsid=owner.id))
    assert await storage.identity() == said.place
    await storage.close()


async def test_differing_nodes_forbid_init_and_adopt(rig: Rig) -> None:
    kind = MemoryPool().place.kind

    async def is_of(name: str, kind: str) -> None:
        await rig.node(name)
        entry = await rig.store.get(rig.keys.node_alive(name))
        assert entry is not None
        await rig.put(rig.keys.node_alive(name), replace(decode(NodeAlive, entry.value), storage=kind))

    await is_of("n1", kind)
    await is_of("n2", "other")
    with pytest.raises(Problem, match="kind other on node n2"):
        await init_storage(rig.cluster, request("why"), client(MemoryPool()))
    await is_of("n3", "other")
    with pytest.raises(Problem, match="kind other on 2 of 3 nodes, such as n2"):
        await adopt_storage(rig.cluster, request("why"), client(MemoryPool()))
    assert await rig.store.get(rig.keys.storage()) is None
    await is_of("n4", kind)
    assert (await adopt_storage(rig.cluster, request("why"), client(MemoryPool()))).state == "ok"


async def test_a_failed_mark_names_the_remedy(rig: Rig) -> None:
    pool = MemoryPool()
    storage = client(pool)

    async def mark(_new: StorageOwner, _before: StorageOwner | None) -> None:
        raise Denied("marking: Permission denied")

    storage.mark = mark  # type: ignore[method-assign]
    with pytest.raises(Problem, match="config/storage was written, but the storage was not marked") as raised:
        await init_storage(rig.cluster, request("new"), storage)
    assert "run this command again" in raised.value.hint
    assert (await init_storage(rig.cluster, request("new"), client(pool))).state == "ok"
