"""Deleting an image: disks in the trash, other clients at the same work, a storage that fails."""

from __future__ import annotations

import asyncio
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from commands_rig import HELLO, Racing, Rig, request

from metastack.commands.image import delete as image_deletion
from metastack.commands.image import import_ as images
from metastack.commands.image.delete import delete_image
from metastack.commands.problem import Code, Problem
from metastack.commands.request import Cluster
from metastack.commands.vm import change as vms
from metastack.commands.vm.change import NewVm
from metastack.core.model import Image, ImageState, Trashed
from metastack.core.state.codec import decode, encode
from metastack.core.transaction import Delete, Put, Transaction
from metastack.lab.dev.ceph import MiniCeph, new_address
from metastack.ports import Denied, InUse, Storage
from metastack.settings import StorageSettings
from metastack.storage.choose import build

MIB = 1 << 20


@pytest.fixture(scope="module")
def ceph() -> Iterator[MiniCeph]:
    folder = Path(tempfile.mkdtemp(prefix="ms-imgdel-", dir="/tmp"))
    cluster = MiniCeph(folder, address=new_address(), v2_port=3300, v1_port=6789)

    async def up() -> None:
        await cluster.create()
        await cluster.create_pool("vms")
        await cluster.create_management_user("cli")

    try:
        asyncio.run(up())
        yield cluster
    finally:
        asyncio.run(cluster.destroy())


@pytest.fixture(params=["file", pytest.param("ceph", marks=pytest.mark.ceph)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> StorageSettings:
    if request.param == "ceph":
        found: MiniCeph = request.getfixturevalue("ceph")
        return found.settings("cli")
    (tmp_path / "pool").mkdir()
    return StorageSettings(kind="file", directory=str(tmp_path / "pool"))


@pytest.fixture
async def storage(settings: StorageSettings) -> AsyncIterator[Storage]:
    found = build(settings)
    await found.open()
    yield found
    await found.close()


@pytest.fixture
async def other(settings: StorageSettings) -> AsyncIterator[Storage]:
    """A node's client of the same storage."""
    found = build(settings)
    await found.open()
    yield found
    await found.close()


@pytest.fixture
async def image(rig: Rig, storage: Storage, tmp_path: Path) -> Image:
    source = tmp_path / "tiny.raw"
    source.write_bytes(b"boot" * (MIB // 4))
    return await images.import_image(rig.cluster, storage, request(), "tiny", str(source))


async def record(rig: Rig) -> Image | None:
    entry = await rig.store.get(rig.keys.image("tiny"))
    return None if entry is None else decode(Image, entry.value)


async def deleted_disk(rig: Rig, storage: Storage, image: Image, retention_s: int = 3600) -> str:
    disk = str(uuid.uuid4())
    await storage.create_disk(disk, image.uuid, 2 * MIB)
    await to_trash(rig, storage, image, disk, retention_s)
    return disk


async def to_trash(rig: Rig, storage: Storage, image: Image, disk: str, retention_s: int = 3600) -> None:
    """As a node does it: the record first."""
    info = await storage.disk(disk)
    assert info is not None
    record = Trashed(
        uuid=disk, project="default", vm="old", vm_uuid=str(uuid.uuid4()), image_uuid=image.uuid, size_bytes=1,
        ident=info.ident, retention_s=retention_s,
    )  # fmt: skip
    put = Put(rig.keys.trash(disk), encode(record))
    await rig.store.commit(Transaction(name="trash", guards=(), effects=(put,)))
    await storage.delete_disk(disk, retention_s)


async def test_the_trash_keeps_it_and_says_until_when(rig: Rig, storage: Storage, image: Image) -> None:
    for _ in range(2):
        await deleted_disk(rig, storage, image)
    found = await delete_image(rig.cluster, storage, request("old"), "tiny")
    assert (found.gone, found.disks) == (False, 2)
    assert (
        found.message == f"2 deleted disks in the trash need it until {found.until}; the image goes after them"
    )
    left = await record(rig)
    assert left is not None
    assert (left.state, left.message) == (ImageState.DELETING, found.message)
    assert image.uuid in await storage.images()
    with pytest.raises(Problem) as caught:
        await vms.create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    assert caught.value.code is Code.CONFLICT
    with pytest.raises(Problem, match=r"is being deleted: 2 deleted disks") as caught:
        await images.import_image(rig.cluster, storage, request(), "tiny", "/nowhere")
    assert "--purge" in caught.value.hint


async def test_purge_removes_its_deleted_disks_and_no_others(
    rig: Rig, storage: Storage, image: Image, tmp_path: Path
) -> None:
    source = tmp_path / "tiny.raw"
    another = await images.import_image(rig.cluster, storage, request(), "another", str(source))
    await deleted_disk(rig, storage, image)
    kept = await deleted_disk(rig, storage, another)
    assert not (await delete_image(rig.cluster, storage, request(), "tiny")).gone
    assert (await delete_image(rig.cluster, storage, request(), "tiny", purge=True)).gone
    assert await record(rig) is None
    there = await storage.images()
    assert (image.uuid in there, another.uuid in there) == (False, True)
    assert [disk.uuid for disk in await storage.trashed(another.uuid)] == [kept]
    assert (await delete_image(rig.cluster, storage, request(), "another", purge=True)).gone


async def test_purge_leaves_what_a_person_put_into_the_trash(rig: Rig, storage: Storage, image: Image) -> None:
    """No record of ours says when, by whom and until when: it is told, and nothing is removed."""
    disk = str(uuid.uuid4())
    await storage.create_disk(disk, image.uuid, 2 * MIB)
    await storage.delete_disk(disk, 0)
    with pytest.raises(Problem, match=r"is in the trash without a record"):
        await delete_image(rig.cluster, storage, request(), "tiny", purge=True)
    assert disk in [one.uuid for one in await storage.trash()]  # others' of this pool may be there


async def test_purge_leaves_the_disk_of_a_vm(rig: Rig, storage: Storage, image: Image) -> None:
    """Its spec was renamed by hand: it names the disk, and takes it out of the trash when it starts."""
    disk = await deleted_disk(rig, storage, image, retention_s=0)
    named = Put(f"{rig.keys.root}/desired/vms/default/by-hand", disk.encode())
    await rig.store.commit(Transaction(name="by hand", guards=(), effects=(named,)))
    with pytest.raises(Problem, match=r"belongs to a VM: start the VM, which restores it"):
        await delete_image(rig.cluster, storage, request(), "tiny", purge=True)
    assert disk in [one.uuid for one in await storage.trash()]  # others' of this pool may be there


async def test_a_disk_that_is_not_deleted_is_waited_for(rig: Rig, storage: Storage, image: Image) -> None:
    """Its VM's spec is gone, and a node will delete it; the image never takes it along."""
    disk = str(uuid.uuid4())
    await storage.create_disk(disk, image.uuid, 2 * MIB)
    with pytest.raises(Problem, match=r"not gone after 1 s") as caught:
        await delete_image(rig.cluster, storage, request(), "tiny", purge=True, timeout_s=1)
    assert caught.value.code is Code.TIMEOUT
    assert disk in await storage.disks()
    left = await record(rig)
    assert left is not None
    assert left.state is ImageState.DELETING
    deleting = asyncio.ensure_future(delete_image(rig.cluster, storage, request(), "tiny", purge=True))
    await to_trash(rig, storage, image, disk)
    assert (await deleting).gone
    assert image.uuid not in await storage.images()


async def test_waiting_ends_with_the_retention(
    rig: Rig, storage: Storage, other: Storage, image: Image
) -> None:
    disk = await deleted_disk(rig, storage, image, retention_s=2)
    ident = next(one.ident for one in await storage.trash() if one.uuid == disk)
    told = asyncio.Event()
    deleting = asyncio.ensure_future(
        delete_image(rig.cluster, storage, request(), "tiny", wait=True, progress=lambda _text: told.set())
    )
    async with asyncio.timeout(60):
        await told.wait()
        while True:  # what a node does; a clock tells no event
            try:
                assert await other.purge_disk(disk, ident)
                break
            except Denied:
                await asyncio.sleep(0.1)
        assert (await deleting).gone


async def test_two_at_once_both_see_it_gone(rig: Rig, storage: Storage, other: Storage, tmp_path: Path) -> None:
    """A node finishes every deletion too: losing that race is no failure, and never makes it ready again."""
    source = tmp_path / "tiny.raw"
    source.write_bytes(b"boot" * (MIB // 4))
    for _ in range(5):
        image = await images.import_image(rig.cluster, storage, request(), "tiny", str(source))
        both = await asyncio.gather(
            delete_image(rig.cluster, storage, request(), "tiny"),
            delete_image(rig.cluster, other, request(), "tiny"),
            return_exceptions=True,
        )
        for found in both:
            if isinstance(found, Problem):  # it came when all was done
                assert found.code is Code.NOT_FOUND, found
            else:
                assert isinstance(found, image_deletion.Deletion), found
                assert found.gone
        assert await record(rig) is None
        assert image.uuid not in await storage.images()


async def test_its_own_removal_counts_not_what_others_saw(rig: Rig, storage: Storage, image: Image) -> None:
    """Ours had the image out of the directory, and put it back since the other one had it open."""

    class PutBack:
        tries = 0

        def __getattr__(self, name: str) -> Any:
            return getattr(storage, name)

        async def delete_image(self, uuid: str, *mark: Any) -> None:
            self.tries += 1
            if self.tries > 1:
                return await storage.delete_image(uuid)
            await rig.write(Delete(rig.keys.image("tiny")))  # a node looked at that moment, and said "gone"
            raise InUse(f"image-{uuid} is in use")

    assert (await delete_image(rig.cluster, cast(Storage, PutBack()), request(), "tiny")).gone
    assert image.uuid not in await storage.images()


async def test_a_node_that_was_faster(rig: Rig, storage: Storage, other: Storage, image: Image) -> None:
    commits = 0

    async def rival() -> None:
        nonlocal commits
        commits += 1
        if commits == 2:  # after the mark
            await other.delete_image(image.uuid)
            await rig.write(Delete(rig.keys.image("tiny")))

    racing = Cluster(cast(Any, Racing(rig.store, rival, 2)), rig.keys)
    assert (await delete_image(racing, storage, request(), "tiny")).gone
    assert await record(rig) is None
