"""Who has a disk open: the same answers from a real Ceph, from files and from the twin."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest
from storage_rig import MIB, new_uuid, raw_image, run, writer

from metastack.lab.dev.ceph import MiniCeph
from metastack.ports import Opener, Refused, Storage
from metastack.settings import StorageSettings
from metastack.storage.choose import build
from metastack.storage.twin import MemoryPool, MemoryStorage


async def _disk(storage: Storage, tmp_path: Path) -> str:
    image, disk = new_uuid(), new_uuid()
    raw_image(tmp_path / "source.raw", 8 * MIB)
    await storage.import_image(image, str(tmp_path / "source.raw"), None)
    await storage.create_disk(disk, image, 8 * MIB)
    return disk


async def test_a_writer_is_an_opener_until_it_closes_the_disk(
    storage: Storage, settings: StorageSettings, tmp_path: Path
) -> None:
    disk = await _disk(storage, tmp_path)
    assert await storage.openers(disk) == ()
    assert await storage.openers(new_uuid()) == ()
    async with writer(await storage.disk_source(disk), settings) as process:
        (found,) = await storage.openers(disk)
        assert found.watching and found.locking and not (found.by_hand or found.shut_out)
        if settings.kind == "file":
            assert (found.pid, found.address) == (process.pid, "")
            assert f"process {process.pid}" in found.client
        else:
            assert found.address == await storage.own_address()
            assert found.client.startswith(f"{found.address}:")
            assert "/" in found.client
        # Asking leaves no trace: another asker sees the writer alone.
        second = build(settings)
        await second.open()
        assert await second.openers(disk) == (found,)
        await second.close()
        await process.communicate(b"quit\n")
        assert await storage.openers(disk) == ()


async def test_files_cannot_shut_a_client_out(tmp_path: Path) -> None:
    (tmp_path / "shared").mkdir()
    files = build(StorageSettings(kind="file", directory=str(tmp_path / "shared")))
    await files.open()
    with pytest.raises(Refused, match="only the end of its process"):
        await files.evict(new_uuid(), "10.0.0.1:0/1", dead=False)
    await files.close()


async def test_the_twin_tells_and_shuts_out_the_same_way() -> None:
    pool = MemoryPool(images={"i": 512})
    twin = MemoryStorage(pool, "10.0.0.1")
    held = {"client": "10.0.0.2:0/7", "address": "10.0.0.2", "locking": True}
    pool.holders = lambda path: (Opener(**held, shut_out=pool.refuses("10.0.0.2:0/7")),)
    assert [o.shut_out for o in await twin.openers("d")] == [False]
    await twin.evict("d", "10.0.0.2:0/7", dead=False)
    assert [o.shut_out for o in await twin.openers("d")] == [True]
    assert "10.0.0.2:0/7" in pool.broken
    pool.holders = None
    pool.locks["/memory/d"] = "host-2"
    assert [o.client for o in await twin.openers("d")] == ["host host-2"]


@pytest.mark.ceph
async def test_a_dead_writer_is_evicted_alone(ceph: MiniCeph, tmp_path: Path) -> None:
    settings = ceph.settings("cli")
    storage = build(settings)
    await storage.open()
    disk = await _disk(storage, tmp_path)
    source = await storage.disk_source(disk)
    async with writer(source, settings) as process:
        process.send_signal(signal.SIGKILL)
        await process.wait()
        (dead,) = await storage.openers(disk)
        assert dead.watching and dead.locking  # for one watch timeout more
        await storage.evict(disk, dead.client, dead=True)
        assert not [one for one in await storage.openers(disk) if one.locking or not one.shut_out]
        assert await storage.blocked((dead.client,)) == (dead.client,)
        # The next writer need not wait for the dead one, and is no dead one itself.
        async with asyncio.timeout(15), writer(source, settings):
            found = {one.client: one for one in await storage.openers(disk)}
            (living,) = set(found) - {dead.client}
            assert not found[living].shut_out
    await storage.close()


@pytest.mark.ceph
async def test_a_lock_by_hand_is_told_apart_and_broken(ceph: MiniCeph, tmp_path: Path) -> None:
    settings = ceph.settings("cli")
    storage = build(settings)
    await storage.open()
    disk = await _disk(storage, tmp_path)
    rbd = ("rbd", "-m", settings.monitors[0], "--id", settings.user, "--keyring", settings.keyring,
           "-c", "/dev/null", "-p", settings.pool)  # fmt: skip
    run(*rbd, "lock", "add", f"vm-{disk}", "maintenance")
    (held,) = await storage.openers(disk)
    assert held.by_hand and held.locking and not held.watching
    await storage.evict(disk, held.client, dead=False)
    assert await storage.openers(disk) == ()
    await storage.close()
