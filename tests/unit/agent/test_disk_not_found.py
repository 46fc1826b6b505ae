"""A disk that "is not found" is not gone: its record stays until the storage's own list agrees."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_rig import KEYS, lab_of, vm

from metastack.core.model import Phase, VmStatus
from metastack.core.state.codec import decode
from metastack.lab.sim.engine.loop import run
from metastack.ports import DiskInfo, Mark, Unavailable
from metastack.storage.twin import MemoryStorage


def test_a_disk_that_is_not_found_once_keeps_its_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            spec = await lab.want("a")
            uuid, real, asked = spec.volume_uuid, MemoryStorage.disk, [0]

            def runs() -> bool:
                raw = lab.entry(KEYS.vm_status(vm("a")))
                return raw is not None and decode(VmStatus, raw).phase is Phase.RUNNING

            async def disk(self: MemoryStorage, uuid: str) -> DiskInfo | None:
                asked[0] += 1
                return None if asked[0] < 3 else await real(self, uuid)

            await lab.until("it runs", runs)
            monkeypatch.setattr(MemoryStorage, "disk", disk)
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.until("its record is gone", lambda: lab.entry(KEYS.volume("default", uuid)) is None, 300)
            assert uuid not in lab.pool.disks
            assert lab.entry(KEYS.trash(uuid)) is not None

    run(play())


def test_a_move_to_the_trash_that_died_halfway_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ceph lists such a disk, and finds it by no name: the same call again finishes it."""

    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            spec = await lab.want("a")
            uuid, half, moves = spec.volume_uuid, [False], [0]
            disk, delete = MemoryStorage.disk, MemoryStorage.delete_disk

            async def look(self: MemoryStorage, uuid: str) -> DiskInfo | None:
                return None if half[0] else await disk(self, uuid)

            async def move(self: MemoryStorage, uuid: str, keep_s: int, mark: Mark, *, unmarked: bool) -> None:
                moves[0] += 1
                half[0] = moves[0] == 1
                if half[0]:
                    raise Unavailable("the client died in the midst of it")
                await delete(self, uuid, keep_s, mark, unmarked=unmarked)

            await lab.until("it runs", lambda: lab.where("a") == "n1")
            monkeypatch.setattr(MemoryStorage, "disk", look)
            monkeypatch.setattr(MemoryStorage, "delete_disk", move)
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.until("its record is gone", lambda: lab.entry(KEYS.volume("default", uuid)) is None, 300)
            assert lab.entry(KEYS.trash(uuid)) is not None
            assert moves[0] == 2 and uuid in lab.pool.trash

    run(play())
