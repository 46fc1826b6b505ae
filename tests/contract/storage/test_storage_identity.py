"""Which storage an adapter is connected to, and whose mark it bears: asked of each, on real parts."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from storage_rig import new_uuid

from metastack.core.model import StoragePlace
from metastack.lab.dev.ceph import MiniCeph
from metastack.ports import Exists, Refused, Storage, StorageOwner, Unavailable
from metastack.settings import StorageSettings
from metastack.storage.choose import build
from metastack.storage.owner_mark import NAME
from metastack.storage.twin import MemoryPool, MemoryStorage


def owner(cluster_id: str = "") -> StorageOwner:
    return StorageOwner(id=new_uuid(), cluster_id=cluster_id or new_uuid(), root="/metastack", by="a test")


@pytest.fixture(params=["file", "memory", pytest.param("ceph", marks=pytest.mark.ceph)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[StorageSettings | None]:
    """A storage that nobody owns, on Ceph with no more than a node's rights; None: the twin."""
    if request.param != "ceph":
        yield StorageSettings(kind="file", directory=str(tmp_path)) if request.param == "file" else None
        return
    ceph: MiniCeph = request.getfixturevalue("ceph")
    name = f"own-{new_uuid()[:8]}"

    async def made() -> None:
        await ceph.create_pool(name)
        await ceph.create_node_user(name, "127.0.0.1", pool=name)

    asyncio.run(made())
    yield ceph.settings(name, pool=name)
    asyncio.run(removed(ceph, name))


@pytest.fixture
async def unmarked(place: StorageSettings | None) -> AsyncIterator[Storage]:
    adapter: Storage = MemoryStorage(MemoryPool(), "10.0.0.1") if place is None else build(place)
    await adapter.open()
    yield adapter
    await adapter.close()


async def removed(ceph: MiniCeph, pool: str) -> None:
    await ceph.ceph("config", "set", "mon", "mon_allow_pool_delete", "true")
    await ceph.ceph("osd", "pool", "rm", pool, pool, "--yes-i-really-really-mean-it")


async def test_a_mark_is_made_exclusively_and_replaced_only_knowingly(unmarked: Storage) -> None:
    first, second = owner(), owner()
    assert await unmarked.owner() is None
    with pytest.raises(Exists):
        await unmarked.mark(second, first)  # there is none to be replaced
    await unmarked.mark(first, None)
    assert await unmarked.owner() == first
    with pytest.raises(Exists):
        await unmarked.mark(second, None)
    with pytest.raises(Exists):
        await unmarked.mark(second, msgspec.structs.replace(first, cluster_id=new_uuid()))
    assert await unmarked.owner() == first
    await unmarked.mark(second, first)
    assert await unmarked.owner() == second


async def test_of_several_that_mark_at_once_one_is_the_owner(unmarked: Storage) -> None:
    marks = [owner() for _ in range(4)]
    outcomes = await asyncio.gather(*(unmarked.mark(each, None) for each in marks), return_exceptions=True)
    won = [mark for mark, outcome in zip(marks, outcomes, strict=True) if outcome is None]
    assert all(outcome is None or isinstance(outcome, Exists) for outcome in outcomes)
    assert [await unmarked.owner()] == won


async def test_an_identity_is_the_storages_own(settings: StorageSettings, storage: Storage) -> None:
    again = build(settings)
    await again.open()
    place = await storage.identity()
    assert place == await again.identity()
    assert place.kind == settings.kind
    if settings.kind == "ceph":
        assert place.fsid
        assert (place.pool, place.pool_id > 0) == ("vms", True)
    await again.close()


async def test_an_identity_is_asked_of_an_open_storage(settings: StorageSettings) -> None:
    if settings.kind == "ceph":
        with pytest.raises(Unavailable):
            await build(settings).identity()


async def test_a_folder_is_identified_by_its_mark(tmp_path: Path) -> None:
    here, other = tmp_path / "here", tmp_path / "other"
    here.mkdir()
    other.mkdir()
    mine = owner()
    places = []
    for folder in (here, other):
        storage = build(StorageSettings(kind="file", directory=str(folder)))
        await storage.open()
        assert await storage.identity() == StoragePlace(kind="file")
        await storage.mark(mine if folder is here else owner(), None)
        places.append(await storage.identity())
        await storage.close()
    assert places[0] == StoragePlace(kind="file", fsid=mine.id)
    assert places[0] != places[1]
    moved = here.rename(tmp_path / "moved")
    storage = build(StorageSettings(kind="file", directory=str(moved)))
    await storage.open()
    assert await storage.identity() == places[0]
    await storage.close()


async def test_a_mark_that_cannot_be_read_is_somebodys(tmp_path: Path) -> None:
    (tmp_path / NAME).write_bytes(b"\xff\xfe no mark")
    storage = build(StorageSettings(kind="file", directory=str(tmp_path)))
    await storage.open()
    with pytest.raises(Refused, match="names the owner of this storage"):
        await storage.owner()
    with pytest.raises(Refused):
        await storage.mark(owner(), None)
    await storage.close()


@pytest.mark.ceph
async def test_a_pool_made_again_under_its_name_is_another(ceph: MiniCeph) -> None:
    settings = msgspec.structs.replace(ceph.settings("admin"), pool="twice")
    places = []
    for _ in range(2):
        await ceph.create_pool("twice")
        storage = build(settings)
        await storage.open()
        places.append(await storage.identity())
        await storage.close()
        await removed(ceph, "twice")
    assert places[0].fsid == places[1].fsid
    assert places[0].pool_id != places[1].pool_id
