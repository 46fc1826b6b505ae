"""A process whose command line cannot be read costs one thread, and hides no other QEMU."""

from __future__ import annotations

import os
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
