"""What every Storage keeps, asked of each adapter on real parts: RBD of a real Ceph, qcow2 in a folder."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import struct
import sys
import threading
from pathlib import Path

import msgspec
import pytest
from storage_rig import MIB, content, new_uuid, qcow2_image, raw_image, run, writer

from metastack.lab.dev.ceph import MiniCeph
from metastack.ports import (
    Denied,
    DiskFormat,
    Exists,
    InUse,
    InvalidImage,
    NotFound,
    Refused,
    Storage,
    Unavailable,
)
from metastack.settings import StorageSettings
from metastack.storage.choose import build


async def _image(storage: Storage, tmp_path: Path, size_bytes: int = 8 * MIB) -> tuple[str, bytes]:
    uuid, path = new_uuid(), tmp_path / "source.raw"
    data = raw_image(path, size_bytes)
    await storage.import_image(uuid, str(path), None)
    return uuid, data


async def _nothing_left(storage: Storage, uuid: str, spool: Path) -> None:
    assert uuid not in await storage.images()
    assert os.listdir(spool) == []
    if storage.kind == "file":
        folder = Path((await storage.disk_source(uuid)).path).parent.parent
        assert [f for f in folder.rglob("*") if uuid in f.name] == []


async def test_open_is_repeatable_and_close_ends_every_thread(settings: StorageSettings) -> None:
    storage = build(settings)
    await storage.open()
    await storage.open()
    assert await storage.disks() is not None
    await storage.close()


async def test_the_probe_answers_and_says_when_it_does_not(
    storage: Storage, settings: StorageSettings, tmp_path: Path
) -> None:
    async with asyncio.timeout(20):
        await storage.probe()
    never = build(
        msgspec.structs.replace(settings, directory=str(tmp_path / "gone"), monitors=("127.0.0.1:9",))
    )
    with pytest.raises(Unavailable):
        async with asyncio.timeout(60):
            await never.probe()


async def test_raw_import_keeps_bytes_checksum_and_size(
    storage: Storage, settings: StorageSettings, tmp_path: Path
) -> None:
    uuid, path = new_uuid(), tmp_path / "a.img"
    data = raw_image(path)
    seen: list[tuple[int, int]] = []
    info = await storage.import_image(uuid, str(path), None, lambda done, total: seen.append((done, total)))
    assert (info.size_bytes, info.format) == (len(data), DiskFormat.RAW)
    assert info.sha256 == hashlib.sha256(data).hexdigest()
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert uuid in await storage.images()
    disk = new_uuid()
    await storage.create_disk(disk, uuid, 16 * MIB)
    found = content(await storage.disk_source(disk), settings, tmp_path / "out.raw")
    assert found == data + bytes(8 * MIB)


@pytest.mark.parametrize("options", [(), ("-c",), ("-o", "compat=0.10"), ("-o", "cluster_size=512")])
@pytest.mark.parametrize("fmt", [None, DiskFormat.QCOW2])
async def test_qcow2_import_keeps_the_guest_bytes(
    storage: Storage,
    settings: StorageSettings,
    tmp_path: Path,
    spool: Path,
    options: tuple[str, ...],
    fmt: DiskFormat | None,
) -> None:
    data = raw_image(tmp_path / "a.raw")
    qcow2_image(tmp_path / "a.qcow2", tmp_path / "a.raw", *options)
    uuid, disk = new_uuid(), new_uuid()
    seen: list[tuple[int, int]] = []
    info = await storage.import_image(
        uuid, str(tmp_path / "a.qcow2"), fmt, lambda done, total: seen.append((done, total))
    )
    assert (info.size_bytes, info.format) == (len(data), DiskFormat.QCOW2)
    assert info.sha256 == hashlib.sha256((tmp_path / "a.qcow2").read_bytes()).hexdigest()
    assert seen[-1][0] == seen[-1][1]
    assert os.listdir(spool) == []
    await storage.create_disk(disk, uuid, len(data))
    assert content(await storage.disk_source(disk), settings, tmp_path / "out.raw") == data


async def test_a_large_qcow2_without_data_takes_seconds(storage: Storage, tmp_path: Path) -> None:
    """Its zeros were hashed, and the digest thrown away: 64 GiB took minutes."""
    run("qemu-img", "create", "-q", "-f", "qcow2", str(tmp_path / "a.qcow2"), "64G")
    async with asyncio.timeout(60):
        info = await storage.import_image(new_uuid(), str(tmp_path / "a.qcow2"), None)
    assert (info.size_bytes, info.format) == (64 << 30, DiskFormat.QCOW2)
    assert info.sha256 == hashlib.sha256((tmp_path / "a.qcow2").read_bytes()).hexdigest()


async def test_a_qcow2_named_raw_is_opaque_bytes(
    storage: Storage, settings: StorageSettings, tmp_path: Path
) -> None:
    raw_image(tmp_path / "a.raw")
    qcow2_image(tmp_path / "a.qcow2", tmp_path / "a.raw")
    uuid, disk = new_uuid(), new_uuid()
    info = await storage.import_image(uuid, str(tmp_path / "a.qcow2"), DiskFormat.RAW)
    data = (tmp_path / "a.qcow2").read_bytes()
    assert info.size_bytes == len(data)
    await storage.create_disk(disk, uuid, len(data))
    assert content(await storage.disk_source(disk), settings, tmp_path / "out.raw")[: len(data)] == data


def _bad_images(folder: Path) -> dict[str, Path]:
    raw = folder / "good.raw"
    raw_image(raw)
    made: dict[str, Path] = {}

    def bad(name: str) -> Path:
        made[name] = folder / name
        return made[name]

    (folder / "secret").write_bytes(b"secret" * 1000)
    run(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        str(folder / "secret"),
        str(bad("backing")),
        "8M",
    )
    run(
        "qemu-img",
        "create",
        "-q",
        "-f",
        "qcow2",
        "-o",
        f"data_file={folder / 'd'}",
        str(bad("data-file")),
        "8M",
    )
    qcow2_image(folder / "good.qcow2", raw)
    good = (folder / "good.qcow2").read_bytes()
    bad("truncated").write_bytes(good[: len(good) // 2])
    bad("luks").write_bytes(good[:32] + struct.pack(">I", 2) + good[36:])
    bad("header-only").write_bytes(good[:40])
    broken = bytearray(good)
    l1 = struct.unpack_from(">Q", good, 40)[0]
    broken[l1 : l1 + 8] = struct.pack(">Q", (1 << 63) | (1 << 40))
    bad("l1-points-outside").write_bytes(bytes(broken))
    broken = bytearray(good)
    refcounts = struct.unpack_from(">Q", good, 48)[0]
    broken[refcounts : refcounts + 8] = bytes(8)
    bad("no-refcounts").write_bytes(bytes(broken))
    bad("truncated-raw").write_bytes(b"x" * 1000)
    bad("empty").write_bytes(b"")
    for fmt in ("vmdk", "vdi", "vhdx"):
        run("qemu-img", "convert", "-f", "raw", "-O", fmt, str(raw), str(bad(fmt)))
    os.mkfifo(bad("fifo"))
    bad("folder").mkdir()
    return made


async def test_bad_images_are_refused_and_leave_nothing(storage: Storage, tmp_path: Path, spool: Path) -> None:
    folder = tmp_path / "bad"
    folder.mkdir()
    for name, path in _bad_images(folder).items():
        uuid = new_uuid()
        with pytest.raises(InvalidImage) as caught:
            await storage.import_image(uuid, str(path), None)
        said = str(caught.value)
        assert said.startswith(f"{path}: "), name
        assert len(said) < len(str(path)) + 200 and "\n" not in said and "json:" not in said, said
        if name == "truncated":
            assert f"the file ends at byte {path.stat().st_size}" in said
        await _nothing_left(storage, uuid, spool)
    uuid = new_uuid()
    with pytest.raises(InvalidImage):
        await storage.import_image(uuid, str(folder / "good.raw"), DiskFormat.QCOW2)
    with pytest.raises(InvalidImage):
        await storage.import_image(uuid, str(folder / "good.qcow2"), None, size_limit=4 * MIB)
    with pytest.raises(NotFound):
        await storage.import_image(uuid, str(folder / "absent"), None)
    await _nothing_left(storage, uuid, spool)


async def test_import_of_an_existing_image_is_refused_and_harms_nothing(
    storage: Storage, tmp_path: Path
) -> None:
    uuid, _ = await _image(storage, tmp_path)
    with pytest.raises(Exists):
        await storage.import_image(uuid, str(tmp_path / "source.raw"), None)
    assert uuid in await storage.images()


async def test_a_cancelled_import_leaves_nothing_once_quiet(
    storage: Storage, tmp_path: Path, spool: Path
) -> None:
    path, uuid = tmp_path / "big.raw", new_uuid()
    with path.open("wb") as file:
        file.truncate(1 << 40)
        file.write(b"x" * MIB)
    begun = threading.Event()
    loop, started = asyncio.get_running_loop(), asyncio.Event()

    def progress(_done: int, _total: int) -> None:
        if not begun.is_set():
            begun.set()
            loop.call_soon_threadsafe(started.set)

    task = asyncio.ensure_future(storage.import_image(uuid, str(path), None, progress))
    async with asyncio.timeout(30):
        await started.wait()
        assert uuid in await storage.images()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await storage.quiesce()
    await _nothing_left(storage, uuid, spool)


async def test_disk_life(storage: Storage, settings: StorageSettings, tmp_path: Path) -> None:
    image, data = await _image(storage, tmp_path)
    disk = new_uuid()
    assert await storage.disk(disk) is None
    await storage.create_disk(disk, image, 32 * MIB)
    await storage.create_disk(disk, image, 32 * MIB)
    found = await storage.disk(disk)
    assert found
    assert (found.uuid, found.size_bytes, found.parent_image_uuid) == (disk, 32 * MIB, image)
    assert disk in await storage.disks()
    # What a guest wrote stays through a repeated creation, and never reaches the image.
    async with writer(await storage.disk_source(disk), settings):
        pass
    await storage.create_disk(disk, image, 32 * MIB)
    other = new_uuid()
    await storage.create_disk(other, image, 8 * MIB)
    assert content(await storage.disk_source(other), settings, tmp_path / "o.raw") == data
    # An image with disks stays, also while they are in the trash only.
    with pytest.raises(InUse):
        await storage.delete_image(image)
    await _gone(storage, disk, 3600)
    await _gone(storage, other, 0)
    assert await storage.disk(disk) is None
    assert not {disk, other} & set(await storage.disks())
    with pytest.raises(InUse):
        await storage.delete_image(image)
    left = {one.uuid: one for one in await storage.trash()}
    with pytest.raises(Denied):
        await storage.purge_disk(disk, left[disk].ident)
    assert await storage.purge_disk(other, left[other].ident)
    assert not await storage.purge_disk(other, left[other].ident)
    assert [one.uuid for one in await storage.trashed(image)] == [disk]
    with pytest.raises(InUse):
        await storage.delete_image(image)


async def _gone(storage: Storage, disk: str, retention_s: int) -> None:
    """Delete a disk whose writer was killed: Ceph counts it for up to 30 s more."""
    async with asyncio.timeout(60):
        while True:
            try:
                return await storage.delete_disk(disk, retention_s)
            except InUse:
                await asyncio.sleep(0.2)


async def test_image_removal(storage: Storage, tmp_path: Path) -> None:
    image, _ = await _image(storage, tmp_path)
    disk = new_uuid()
    await storage.create_disk(disk, image, 8 * MIB)
    await storage.delete_disk(disk, 0)
    await storage.delete_disk(disk, 0)
    (trashed,) = [one for one in await storage.trash() if one.uuid == disk]
    assert await storage.purge_disk(disk, trashed.ident)
    await storage.delete_image(image)
    await storage.delete_image(image)
    assert image not in await storage.images()


async def test_creation_errors(storage: Storage, tmp_path: Path) -> None:
    image, _ = await _image(storage, tmp_path)
    with pytest.raises(InvalidImage, match="smaller than its image"):
        await storage.create_disk(new_uuid(), image, 4 * MIB)
    with pytest.raises(NotFound, match="import it first"):
        await storage.create_disk(new_uuid(), new_uuid(), 8 * MIB)


async def test_concurrent_creations_make_one_disk(storage: Storage, tmp_path: Path) -> None:
    image, _ = await _image(storage, tmp_path)
    disk = new_uuid()
    async with asyncio.TaskGroup() as group:
        for _ in range(4):
            group.create_task(storage.create_disk(disk, image, 16 * MIB))
    found = await storage.disk(disk)
    assert found
    assert found.size_bytes == 16 * MIB


async def test_a_live_writer_locks_its_disk(
    storage: Storage, settings: StorageSettings, tmp_path: Path
) -> None:
    image, _ = await _image(storage, tmp_path)
    disk, other = new_uuid(), new_uuid()
    for uuid in (disk, other):
        await storage.create_disk(uuid, image, 8 * MIB)
    assert not await storage.locked(disk)
    async with writer(await storage.disk_source(disk), settings) as process:
        assert await storage.locked(disk)
        assert not await storage.locked(other)
        with pytest.raises(InUse):
            await storage.delete_disk(disk, 0)
        # Orderly end: the lock goes with it, at once.
        await process.communicate(b"quit\n")
        assert not await storage.locked(disk)
    await storage.delete_disk(disk, 0)
    assert not await storage.locked(new_uuid())


async def test_two_adapters_see_the_same(storage: Storage, settings: StorageSettings, tmp_path: Path) -> None:
    image, _ = await _image(storage, tmp_path)
    second = build(settings)
    await second.open()
    assert image in await second.images()
    disk = new_uuid()
    await second.create_disk(disk, image, 8 * MIB)
    assert disk in await storage.disks()
    await second.close()


async def test_half_an_import_is_cleaned(storage: Storage, settings: StorageSettings, tmp_path: Path) -> None:
    """An importer killed in the middle leaves something: it is listed, blocks a second import, and goes."""
    path, uuid = tmp_path / "a.raw", new_uuid()
    with path.open("wb") as file:
        file.truncate(1 << 40)
    script = tmp_path / "importer.py"
    script.write_text(
        "import asyncio, sys, msgspec\n"
        "from metastack.settings import StorageSettings\n"
        "from metastack.storage.choose import build\n"
        "async def main():\n"
        "    storage = build(msgspec.json.decode(sys.argv[1], type=StorageSettings))\n"
        "    await storage.open()\n"
        "    await storage.import_image(sys.argv[2], sys.argv[3], None, lambda d, t: print(d, flush=True))\n"
        "asyncio.run(main())\n"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable, str(script), msgspec.json.encode(settings).decode(), uuid, str(path),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout
    async with asyncio.timeout(60):
        assert await process.stdout.readline()
    with pytest.raises(InUse):
        await storage.delete_image(uuid)
    process.kill()
    await process.communicate()
    assert uuid in await storage.images()
    raw_image(tmp_path / "b.raw")
    with pytest.raises(Exists):
        await storage.import_image(uuid, str(tmp_path / "b.raw"), None)
    with pytest.raises(NotFound):
        await storage.create_disk(new_uuid(), uuid, 1 << 40)
    async with asyncio.timeout(60):
        while True:
            try:
                await storage.delete_image(uuid)
                break
            except InUse:
                await asyncio.sleep(0.2)  # Ceph counts the dead importer for up to 30 s more
    await storage.import_image(uuid, str(tmp_path / "b.raw"), None)


async def test_quiesce_outlasts_a_cancelled_call(storage: Storage, tmp_path: Path) -> None:
    """The await is cancelled while its thread is provably inside the call."""
    raw_image(tmp_path / "a.raw", 16 * MIB)
    inside, go_on, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()

    def hold(_done: int, _total: int) -> None:
        loop.call_soon_threadsafe(inside.set)
        assert go_on.wait(60)

    image = new_uuid()
    importing = asyncio.ensure_future(storage.import_image(image, str(tmp_path / "a.raw"), None, hold))
    try:
        async with asyncio.timeout(60):
            await inside.wait()
            importing.cancel()
            with pytest.raises(asyncio.CancelledError):
                await importing
            quiet = asyncio.ensure_future(storage.quiesce())
            await storage.images()  # other calls come and go meanwhile
            await asyncio.sleep(0)
            assert not quiet.done()
            go_on.set()
            await quiet
    finally:
        go_on.set()
    assert image not in await storage.images()


@pytest.mark.ceph
async def test_a_creation_that_died_between_clone_and_growth_is_finished(
    ceph: MiniCeph, tmp_path: Path
) -> None:
    storage = build(ceph.settings("cli"))
    await storage.open()
    try:
        image, data = await _image(storage, tmp_path)
        disk = new_uuid()
        # What is there after the first of the two steps.
        names = (f"vms/image-{image}@base", f"vms/vm-{disk}")
        await ceph.run("rbd", "-c", str(ceph.conf), "clone", "--rbd-default-clone-format", "1", *names)
        found = await storage.disk(disk)
        assert found
        assert found.size_bytes == len(data)
        await storage.create_disk(disk, image, 32 * MIB)
        found = await storage.disk(disk)
        assert found
        assert (found.size_bytes, found.parent_image_uuid) == (32 * MIB, image)
    finally:
        await storage.close()


async def test_memory_stays_bounded(storage: Storage, settings: StorageSettings, tmp_path: Path) -> None:
    """1 GiB, a tenth of it data: the importing process grows by less than 64 MiB, and so does a qcow2's."""

    raw = tmp_path / "big.raw"
    block = os.urandom(4 * MIB)
    with raw.open("wb") as file:
        file.truncate(1 << 30)
        for at in range(0, 1 << 30, 40 * MIB):
            file.seek(at)
            file.write(block)
    qcow2_image(tmp_path / "big.qcow2", raw)
    script = tmp_path / "measure.py"
    script.write_text(
        "import asyncio, json, resource, sys, msgspec\n"
        "from metastack.settings import StorageSettings\n"
        "from metastack.storage.choose import build\n"
        "def memory(field):\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(x.split()[1]) for x in lines if x.startswith(field)) // 1024\n"
        "async def main():\n"
        "    storage = build(msgspec.json.decode(sys.argv[1], type=StorageSettings))\n"
        "    await storage.open()\n"
        # Not ru_maxrss: exec inherits the parent's peak, here pytest's, which hides any growth.
        "    open('/proc/self/clear_refs', 'w').write('5')\n"
        "    before = memory('VmRSS')\n"
        "    await storage.import_image(sys.argv[2], sys.argv[3], None)\n"
        "    grown = memory('VmHWM') - before\n"
        "    await storage.close()\n"
        "    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024\n"
        "    print(json.dumps({'grown_mib': grown, 'child_mib': child}))\n"
        "asyncio.run(main())\n"
    )
    for path in (raw, tmp_path / "big.qcow2"):
        out = await asyncio.to_thread(
            run, sys.executable, str(script), msgspec.json.encode(settings).decode(), new_uuid(), str(path)
        )
        found = json.loads(out)
        print(storage.kind, path.name, found)
        assert found["grown_mib"] <= 64, found
        assert found["child_mib"] <= 64, found


async def test_calls_before_open_or_with_bad_names(settings: StorageSettings, storage: Storage) -> None:
    if settings.kind == "ceph":
        with pytest.raises(Unavailable):
            await build(settings).disks()
    with pytest.raises(Exception, match="not a UUID"):
        await storage.create_disk("../etc", new_uuid(), MIB)
    with pytest.raises(Refused):
        build(StorageSettings(kind="tape"))
