"""The trash of a storage folder: what lies in it, and how one disk of it goes for good or comes back.

Owns: ``trash/UUID.EXPIRY.qcow2``. Refuses: what bears no mark of the caller's cluster.
Rule: a file is named by its inode. Anybody may put anything there, under any name.

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from metastack.ports import Denied, Exists, InUse, InvalidImage, Mark, Stray, TrashedDisk
from metastack.ports.ownership import refuse_to_remove, same_object, told

from .images import Folder, header, mapped, sync
from .lock import write_locked
from .marks import ident


def _expiry(file: Path) -> float:
    """When a trashed disk's retention ends, seconds since the epoch; never for a name that is not ours."""
    _, _, expiry = file.stem.rpartition(".")
    return int(expiry) if expiry.isdigit() else float("inf")


def _files(folder: Folder) -> Iterator[tuple[Path, TrashedDisk]]:
    now = time.time()
    for file in sorted(folder.trash.glob("*.qcow2")):
        if _expiry(file) < float("inf"):
            with contextlib.suppress(FileNotFoundError):
                uuid, left_s = file.name.partition(".")[0], max(0.0, _expiry(file) - now)
                yield file, TrashedDisk(uuid=uuid, left_s=left_s, ident=ident(file))


def trash(folder: Folder) -> list[TrashedDisk]:
    with mapped(f"looking through {folder.trash}"):
        return [disk for _, disk in _files(folder)]


def trashed(folder: Folder, image_uuid: str) -> list[TrashedDisk]:
    """Deleted disks that depend on an image."""
    found = []
    with mapped(f"looking through {folder.trash}"):
        for file, disk in _files(folder):
            with contextlib.suppress(FileNotFoundError, InvalidImage):
                if Path(header(file).backing).stem == image_uuid:
                    found.append(disk)
    return found


def _find(folder: Folder, uuid: str, its: str) -> Path | None:
    found = (file for file, disk in _files(folder) if disk.uuid == uuid and same_object(disk.ident, its))
    return next(found, None)


def purge(folder: Folder, uuid: str, its: str, mark: Mark, early: bool) -> bool:
    with mapped(f"removing {uuid} from {folder.trash}"):
        if (file := _find(folder, uuid, its)) is None:
            return False
        refuse_to_remove(str(file), folder.marks.read("disk", uuid), its, mark, unmarked=False)
        if not early and _expiry(file) > time.time():
            raise Denied(f"{file}: its retention has not ended")
        if write_locked(str(file)):
            # A QEMU that had it open before it came here may still write.
            raise InUse(f"{file} is open for writing in a QEMU")
        file.unlink()
        if not folder.disk(uuid).exists():
            folder.marks.drop("disk", uuid)
        sync(folder.trash)
        return True


def restore(folder: Folder, uuid: str, its: str, mark: Mark) -> bool:
    with mapped(f"taking {uuid} out of {folder.trash}"), folder.exclusive():
        if (file := _find(folder, uuid, its)) is None:
            return False
        refuse_to_remove(str(file), folder.marks.read("disk", uuid), its, mark, unmarked=True)
        try:
            os.link(file, folder.disk(uuid))
        except FileExistsError:
            if not folder.disk(uuid).samefile(file):  # else a restore died after its first step
                raise Exists(f"{folder.disk(uuid)} exists: move it away by hand, or give up {file}") from None
        file.unlink(missing_ok=True)
        sync(folder.disks)
        sync(folder.trash)
        return True


def missing(folder: Folder, uuid: str) -> str:
    said = f"its disk {folder.disk(uuid)} is missing"
    with mapped(f"looking through {folder.trash}"):
        lies = [file for file, disk in _files(folder) if disk.uuid == uuid]
    if lies:
        said += f": it lies in the trash, `mv {lies[-1]} {folder.disk(uuid)}` brings it back"
    return said


def strays(folder: Folder, known: frozenset[str]) -> list[Stray]:
    """Images and disks, also in the trash, of UUIDs that nobody knows."""
    with mapped(f"looking through {folder.root}"):
        files = [
            *((file, "image", file.stem) for file in sorted(folder.images.iterdir())),
            *((file, "disk", file.stem) for file in sorted(folder.disks.glob("[!.]*"))),
            *((file, "disk", file.name.partition(".")[0]) for file in sorted(folder.trash.glob("[!.]*"))),
        ]
        return [
            Stray(name=str(file.relative_to(folder.root)), why=_why(folder, kind, uuid, file))
            for file, kind, uuid in files
            if uuid not in known
        ]


def _why(folder: Folder, kind: str, uuid: str, file: Path) -> str:
    found = folder.marks.read(kind, uuid)
    if found is None:
        return "it bears no mark"
    try:
        return told(found) if same_object(found.ident, ident(file)) else "it is a copy that was made by hand"
    except FileNotFoundError:
        return "it is gone meanwhile"
