"""Processes whose command lines cannot be read cost one thread each, and hide no other QEMU."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from pathlib import Path

import pytest

from metastack.hypervisor.emulators import Emulators
from metastack.ports import Unavailable

ONE, OTHER = (f"{n}0000000-0000-4000-8000-000000000000" for n in "12")


def process(proc: Path, pid: int, uuid: str) -> Path:
    folder = proc / str(pid)
    folder.mkdir()
    (folder / "stat").write_text(f"{pid} (qemu-system-x86) S " + " ".join(["0"] * 18) + " 77 0\n")
    (folder / "cmdline").write_bytes(b"\0".join([b"qemu", b"-name", b"guest=a", b"-uuid", uuid.encode(), b""]))
    return folder / "cmdline"


async def test_one_that_hangs_is_waited_for_once(tmp_path: Path) -> None:
    hangs = process(tmp_path, 7, ONE)
    process(tmp_path, 8, OTHER)
    emulators = Emulators(0.2, str(tmp_path))
    try:
        assert await emulators.all() == {ONE: 7, OTHER: 8}
        hangs.unlink()
        os.mkfifo(hangs)  # whoever opens it waits for a writer
        with pytest.raises(Unavailable):
            await emulators.all()
        for _ in range(6):  # more than there are threads
            assert await emulators.all() == {ONE: 7, OTHER: 8}
    finally:
        with hangs.open("wb"):  # lets the one reader go
            pass
        emulators.close()


async def test_hung_processes_do_not_hide_others(tmp_path: Path) -> None:
    uuids = [f"{n}0000000-0000-4000-8000-000000000000" for n in range(1, 7)]
    hang = [process(tmp_path, 10 + n, uuid) for n, uuid in enumerate(uuids[:5])]
    qemu = await asyncio.create_subprocess_exec("sleep", "60")
    process(tmp_path, qemu.pid, uuids[5])
    everything = {**{uuid: 10 + n for n, uuid in enumerate(uuids[:5])}, uuids[5]: qemu.pid}
    emulators = Emulators(0.2, str(tmp_path))
    try:
        assert await emulators.all() == everything
        for one in hang:
            one.unlink()
            os.mkfifo(one)
        for _ in hang:
            with pytest.raises(Unavailable):
                await emulators.all()
        assert await emulators.all() == everything
        ending = asyncio.create_task(emulators.end(uuids[5]))
        await qemu.wait()  # its folder in this /proc is a test's: it goes when the process does
        shutil.rmtree(tmp_path / str(qemu.pid))
        await ending
        everything.pop(uuids[5])
        assert await emulators.all() == everything
    finally:
        if qemu.returncode is None:
            qemu.kill()
            await qemu.wait()
        for one in hang:
            if stat.S_ISFIFO(one.stat().st_mode):
                os.close(os.open(one, os.O_RDWR))  # lets its reader go
        emulators.close()
