"""The mark of a folder's owner: one file at its top, made exclusively.

Owns: reading and putting it. Refuses: replacing any mark but the one that it was shown.
Rule: the mark is written whole under another name first, so that nobody ever reads half of one.

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from metastack.ports import Exists, StorageOwner

from ..owner_mark import MOST_BYTES, NAME, decoded, encoded
from .images import Folder, mapped, sync


def read(folder: Folder) -> StorageOwner | None:
    raw = _raw(folder)
    return None if raw is None else decoded(raw, str(folder.root / NAME))


def _raw(folder: Folder) -> bytes | None:
    path = folder.root / NAME
    with mapped(f"reading {path}"):
        try:
            with path.open("rb") as file:
                return file.read(MOST_BYTES)
        except FileNotFoundError:
            return None


def write(folder: Folder, owner: StorageOwner, before: StorageOwner | None) -> None:
    path = folder.root / NAME
    # The lock keeps apart who replaces a mark; who makes the first one is kept apart by the link, too.
    with mapped(f"marking {folder.root}"), folder.exclusive():
        found = read(folder)
        if found != before:
            raise Exists(f"{path}: the mark changed during the check: try again")
        new = folder.root / f".{NAME}-{secrets.token_hex(8)}"
        try:
            _written(new, encoded(owner))
            if before is None:
                os.link(new, path)
            else:
                os.rename(new, path)
        except FileExistsError:
            raise Exists(f"{path}: another cluster has just marked this storage: try again") from None
        finally:
            new.unlink(missing_ok=True)
        sync(folder.root)


def _written(path: Path, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        os.write(fd, data)
        os.fsync(fd)
    finally:
        os.close(fd)
