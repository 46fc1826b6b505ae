"""Whose an object is: marks, the trash and strays, asked of each adapter on real parts, and of the twin.

Every test here is an act of an administrator by hand, and after which something was lost.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from storage_rig import MIB, new_uuid, raw_image, run

from metastack.lab.dev.ceph import MiniCeph
from metastack.ports import Exists, InUse, Mark, MissingDisk, NotOurs, Refused, Storage
from metastack.settings import StorageSettings
from metastack.storage.choose import build
from metastack.storage.twin import MemoryPool, MemoryStorage

OURS, THEIRS = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


class ByHand:
    """What an administrator does, past all of MetaStack, with the storage's own tools."""

    def __init__(self, where: Path | MiniCeph | MemoryPool) -> None:
        self.where = where

    def rbd(self, *argv: str) -> str:
        assert isinstance(self.where, MiniCeph)
        return run("rbd", "-c", str(self.where.conf), *argv)

    def rename(self, disk: str, to: str) -> None:
        match self.where:
            case MemoryPool() as pool:
                pool.disks[to] = replace(pool.disks.pop(disk), uuid=to)
            case Path() as folder:
                os.rename(folder / "disks" / f"{disk}.qcow2", folder / "disks" / f"{to}.qcow2")
            case _:
                self.rbd("rename", f"vms/vm-{disk}", f"vms/vm-{to}")

    def copy_over(self, disk: str) -> None:
        """Put a copy in the place of the disk: what came back from a backup, perhaps."""
        aside = new_uuid()
        match self.where:
            case MemoryPool() as pool:
                pool.disks[disk] = replace(pool.disks[disk], ident="a copy's")
            case Path() as folder:
                path = folder / "disks" / f"{disk}.qcow2"
                shutil.copy2(path, folder / aside)
                os.rename(folder / aside, path)
            case _:
                self.rbd("cp", f"vms/vm-{disk}", f"vms/{aside}")
                self.rbd("rename", f"vms/vm-{disk}", f"vms/old-{aside}")
                self.rbd("rename", f"vms/{aside}", f"vms/vm-{disk}")

    def make(self, disk: str) -> None:
        """Make something under a disk's name."""
        match self.where:
            case MemoryPool() as pool:
                pool.new_disk(disk, MIB, new_uuid())
            case Path() as folder:
                run("qemu-img", "create", "-q", "-f", "qcow2", str(folder / "disks" / f"{disk}.qcow2"), "8M")
            case _:
                self.rbd("create", "--size", "8M", f"vms/vm-{disk}")

    def image(self, name: str) -> str:
        """An image that a person made, named as ours are; its UUID."""
        match self.where:
            case MemoryPool() as pool:
                pool.images[name] = MIB
            case Path() as folder:
                (folder / "images" / f"{name}.raw").write_bytes(bytes(MIB))
            case _:
                self.rbd("create", "--size", "8M", f"vms/image-{name}")
        return name

    def stick(self, disk: str) -> str:
        """See that a disk cannot be removed; what undoes that."""
        match self.where:
            case MemoryPool() as pool:
                pool.stuck[disk] = "it has a snapshot"
            case Path():
                pytest.skip("a file has no snapshot that keeps it")
            case _:
                self.rbd("snap", "create", f"vms/vm-{disk}@by-hand")
        return disk


@pytest.fixture(params=["file", "memory", pytest.param("ceph", marks=pytest.mark.ceph)])
def hand(request: pytest.FixtureRequest, tmp_path: Path) -> ByHand:
    # Not asynchronous: Ceph is started on a loop of its own.
    if request.param == "memory":
        return ByHand(MemoryPool())
    if request.param == "file":
        (tmp_path / "shared").mkdir()
        return ByHand(tmp_path / "shared")
    return ByHand(request.getfixturevalue("ceph"))


@pytest.fixture
async def both(hand: ByHand) -> AsyncIterator[tuple[Storage, ByHand]]:
    adapter: Storage
    match hand.where:
        case MemoryPool() as pool:
            adapter = MemoryStorage(pool)
        case Path() as folder:
            adapter = build(StorageSettings(kind="file", directory=str(folder)))
        case MiniCeph() as ceph:
            adapter = build(ceph.settings("n1"))
    await adapter.open()
    yield adapter, hand
    await adapter.close()


def mark(uuid: str, cluster: str = OURS, kind: str = "disk") -> Mark:
    return Mark(cluster=cluster, kind=kind, record=uuid)


async def _image(storage: Storage, tmp_path: Path) -> str:
    uuid, path = new_uuid(), tmp_path / "source.raw"
    raw_image(path)
    await storage.import_image(uuid, str(path), None, mark=mark(uuid, kind="image"))
    return uuid


async def _disk(storage: Storage, tmp_path: Path) -> tuple[str, Mark]:
    image, disk = await _image(storage, tmp_path), new_uuid()
    await storage.create_disk(disk, image, 8 * MIB, mark(disk))
    return disk, mark(disk)


async def test_a_disk_bears_its_own_mark(both: tuple[Storage, ByHand], tmp_path: Path) -> None:
    storage, _ = both
    disk, ours = await _disk(storage, tmp_path)
    found = await storage.disk(disk)
    assert found is not None and found.mark is not None
    assert (found.mark.cluster, found.mark.kind, found.mark.record) == (OURS, "disk", disk)
    assert found.mark.ident == found.ident != ""
    await storage.adopt_disk(disk, 8 * MIB, ours)
    await storage.create_disk(disk, found.parent_image_uuid, 8 * MIB, ours)
    assert await storage.disk(disk) == found


async def test_a_lost_disk_is_missing_and_not_remade(both: tuple[Storage, ByHand], tmp_path: Path) -> None:
    storage, hand = both
    disk, ours = await _disk(storage, tmp_path)
    hand.rename(disk, other := new_uuid())
    with pytest.raises(MissingDisk, match="is missing"):
        await storage.adopt_disk(disk, 8 * MIB, ours)
    assert disk in await storage.missing(disk)
    assert disk not in await storage.disks()
    hand.rename(other, disk)
    await storage.adopt_disk(disk, 8 * MIB, ours)


async def test_anothers_disk_is_neither_used_nor_removed(both: tuple[Storage, ByHand], tmp_path: Path) -> None:
    storage, hand = both
    if isinstance(hand.where, Path):
        pytest.skip("a file under another name has that name's mark, or none: it is a copy")
    (first, _), (second, ours) = await _disk(storage, tmp_path), await _disk(storage, tmp_path)
    hand.rename(second, new_uuid())
    hand.rename(first, second)
    with pytest.raises(NotOurs, match=f"it is the disk {first}"):
        await storage.adopt_disk(second, 8 * MIB, ours)
    with pytest.raises(NotOurs):
        await storage.create_disk(second, new_uuid(), 8 * MIB, ours)
    with pytest.raises(NotOurs):
        await storage.delete_disk(second, 0, ours)
    assert second in await storage.disks()


async def test_another_cluster_s_disk_is_neither_used_nor_removed(
    both: tuple[Storage, ByHand], tmp_path: Path
) -> None:
    storage, _ = both
    disk, _ = await _disk(storage, tmp_path)
    theirs = mark(disk, THEIRS)
    for call in (
        storage.adopt_disk(disk, 8 * MIB, theirs),
        storage.delete_disk(disk, 0, theirs),
        storage.delete_disk(disk, 0),
    ):
        with pytest.raises(NotOurs, match=OURS):
            await call
    assert disk in await storage.disks()


async def test_a_copy_has_no_mark_of_its_own(both: tuple[Storage, ByHand], tmp_path: Path) -> None:
    """It is used, for its record names it, and from then on it is ours."""
    storage, hand = both
    disk, ours = await _disk(storage, tmp_path)
    before = await storage.disk(disk)
    hand.copy_over(disk)
    found = await storage.disk(disk)
    assert found is not None and before is not None and found.ident != before.ident
    with pytest.raises(NotOurs, match="a copy that was made by hand"):
        await storage.delete_disk(disk, 0, ours)
    await storage.adopt_disk(disk, 8 * MIB, ours)
    await storage.delete_disk(disk, 0, ours)
    assert disk not in await storage.disks()


async def test_an_unmarked_object_goes_only_by_an_older_record(
    both: tuple[Storage, ByHand],
) -> None:
    storage, hand = both
    disk = new_uuid()
    hand.make(disk)
    with pytest.raises(NotOurs, match="bears no mark of this cluster"):
        await storage.delete_disk(disk, 0, mark(disk), unmarked=False)
    await storage.delete_disk(disk, 0, mark(disk))
    (lies,) = [one for one in await storage.trash() if one.uuid == disk]
    # It was marked on its way: nothing that is ours lies in the trash without one.
    assert await storage.purge_disk(disk, lies.ident, mark(disk))


async def test_an_image_of_somebody_else_is_not_removed(both: tuple[Storage, ByHand], tmp_path: Path) -> None:
    storage, hand = both
    image, golden = await _image(storage, tmp_path), hand.image(new_uuid())
    with pytest.raises(NotOurs):
        await storage.delete_image(image, mark(image, THEIRS, "image"))
    with pytest.raises(NotOurs):
        await storage.delete_image(golden, mark(golden, kind="image"), unmarked=False)
    assert {image, golden} <= set(await storage.images())
    await storage.delete_image(image, mark(image, kind="image"), unmarked=False)
    await storage.delete_image(golden, mark(golden, kind="image"))
    assert not {image, golden} & set(await storage.images())


async def test_the_trash_is_purged_one_object_at_a_time(both: tuple[Storage, ByHand], tmp_path: Path) -> None:
    storage, hand = both
    (disk, ours), (snapped, its) = await _disk(storage, tmp_path), await _disk(storage, tmp_path)
    hand.stick(snapped)
    for uuid, one in ((disk, ours), (snapped, its)):
        await storage.delete_disk(uuid, 0, one)
    idents = {one.uuid: one.ident for one in await storage.trash()}
    with pytest.raises(Refused) as caught:
        await storage.purge_disk(snapped, idents[snapped], its)
    assert snapped in str(caught.value)
    with pytest.raises(NotOurs):
        await storage.purge_disk(disk, idents[disk], mark(disk, THEIRS))
    assert not await storage.purge_disk(disk, "another", ours)
    assert await storage.purge_disk(disk, idents[disk], ours)
    assert not await storage.purge_disk(disk, idents[disk], ours)
    assert snapped in {one.uuid for one in await storage.trash()}


async def test_a_disk_comes_back_from_the_trash(both: tuple[Storage, ByHand], tmp_path: Path) -> None:
    storage, hand = both
    disk, ours = await _disk(storage, tmp_path)
    before = await storage.disk(disk)
    await storage.delete_disk(disk, 3600, ours)
    (lies,) = [one for one in await storage.trash() if one.uuid == disk]
    assert "trash" in await storage.missing(disk)
    with pytest.raises(NotOurs):
        await storage.restore_disk(disk, lies.ident, mark(disk, THEIRS))
    hand.make(disk)
    with pytest.raises(Exists):
        await storage.restore_disk(disk, lies.ident, ours)
    hand.rename(disk, new_uuid())
    assert await storage.restore_disk(disk, lies.ident, ours)
    assert not await storage.restore_disk(disk, lies.ident, ours)
    assert await storage.disk(disk) == before
    await storage.adopt_disk(disk, 8 * MIB, ours)


async def test_strays_are_told_and_nothing_else(both: tuple[Storage, ByHand], tmp_path: Path) -> None:
    storage, hand = both
    (disk, _), golden, odd = await _disk(storage, tmp_path), hand.image(f"golden-{new_uuid()}"), new_uuid()
    hand.make(odd)
    info = await storage.disk(disk)
    assert info is not None
    found = await storage.strays(frozenset({disk, info.parent_image_uuid}))
    told = " ".join(one.name for one in found)
    assert golden in told and odd in told
    assert disk not in told and info.parent_image_uuid not in told
    assert next(one.why for one in found if golden in one.name) == "it bears no mark"


async def test_a_disk_in_use_is_not_moved(both: tuple[Storage, ByHand], tmp_path: Path) -> None:
    storage, hand = both
    if not isinstance(hand.where, MemoryPool):
        pytest.skip("test_a_live_writer_locks_its_disk asks the others")
    disk, ours = await _disk(storage, tmp_path)
    hand.where.locks[f"/memory/{disk}"] = "n1"
    with pytest.raises(InUse):
        await storage.delete_disk(disk, 0, ours)
