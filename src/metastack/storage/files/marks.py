"""Marks on files: a small file beside each image and disk that says whose it is, and which inode it is of.

Owns: ``marks/KIND-UUID.json`` and what an inode is called. Refuses: judging a mark
(:mod:`metastack.ports.ownership`); extended attributes, which NFS and tmpfs often lack and ``cp -a`` copies.
Rule: a file is its inode and the moment when that was made. A rename keeps both, a copy has others. A file that
is made by hand under the same name has another moment, also when it got the same inode number. Where one of two
hosts does not tell that moment, the inode alone counts (:func:`metastack.ports.ownership.same_object`).

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import secrets
from functools import cache
from pathlib import Path
from typing import Any, Final

from metastack.ports import Mark
from metastack.ports.ownership import Found, parsed, written

_AT_FDCWD: Final = -100
_BTIME: Final = 0x800
_SIZE: Final = 256
"""Bytes of ``struct statx``."""
_MASK_AT, _BTIME_AT = 0, 80
"""Where its mask and its time of birth stand: the same on every architecture."""


@cache
def _statx() -> Any:
    """glibc's statx; None where there is none."""
    return getattr(ctypes.CDLL(None, use_errno=True), "statx", None)


def _born_ns(path: Path) -> int:
    """When the inode was made; 0 where the file system does not tell."""
    call, raw = _statx(), ctypes.create_string_buffer(_SIZE)
    if call is None or call(_AT_FDCWD, os.fsencode(path), 0, _BTIME, raw) != 0:
        return 0
    data = raw.raw
    if not int.from_bytes(data[_MASK_AT : _MASK_AT + 4], "little") & _BTIME:
        return 0
    seconds = int.from_bytes(data[_BTIME_AT : _BTIME_AT + 8], "little", signed=True)
    return seconds * 1_000_000_000 + int.from_bytes(data[_BTIME_AT + 8 : _BTIME_AT + 12], "little")


def ident(path: Path) -> str:
    """What tells this file from every other one of its name. Raises FileNotFoundError."""
    return f"{path.stat().st_ino}-{_born_ns(path)}"


class Marks:
    """The marks of one storage folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _of(self, kind: str, uuid: str) -> Path:
        return self.folder / f"{kind}-{uuid}.json"

    def read(self, kind: str, uuid: str) -> Found | None:
        """The mark that was written for that object."""
        with contextlib.suppress(FileNotFoundError):
            return parsed(self._of(kind, uuid).read_bytes())
        return None

    def write(self, uuid: str, mark: Mark, path: Path) -> None:
        """Mark a file."""
        if not mark.cluster:
            return
        new = self.folder / f".new-{secrets.token_hex(8)}"
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            os.write(fd, written(mark, ident(path)))
            os.fsync(fd)
        finally:
            os.close(fd)
        os.replace(new, self._of(mark.kind, uuid))

    def drop(self, kind: str, uuid: str) -> None:
        """The object is gone for good."""
        self._of(kind, uuid).unlink(missing_ok=True)
