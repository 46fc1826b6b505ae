"""The trash of an RBD pool: what lies in it, and how one disk of it goes for good or comes back.

Owns: these deeds, each for one object of one id. Refuses: what bears no mark of the caller's cluster.
Rule: an object is named by its id. Names in the trash may repeat, and anybody may put anything there.

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

import rbd

from metastack.ports import Mark, NotFound, Stray, TrashedDisk, Unavailable
from metastack.ports.ownership import Found, refuse_to_remove, told

from . import marks as ceph_marks
from .errors import mapped
from .handle import Handle
from .images import BASE, DISK, IMAGE, IMPORT

SHOWN: Final = 20
"""Strays whose mark is read; of more only the names are told. Reading one takes 20 ms."""


def _entries(handle: Handle) -> list[dict[str, Any]]:
    with mapped("listing the trash"):
        return [entry for entry in rbd.RBD().trash_list(handle.ioctx) if entry["name"].startswith(DISK)]


def trash(handle: Handle) -> list[TrashedDisk]:
    return sorted(map(_told, _entries(handle)), key=lambda disk: (disk.uuid, disk.ident))


def _told(entry: dict[str, Any]) -> TrashedDisk:
    # The end of the retention is UTC, and naive, as Ceph tells it.
    left_s = (entry["deferment_end_time"] - datetime.now(UTC).replace(tzinfo=None)).total_seconds()
    return TrashedDisk(uuid=entry["name"].removeprefix(DISK), left_s=max(0.0, left_s), ident=str(entry["id"]))


def trashed(handle: Handle, image_uuid: str) -> list[TrashedDisk]:
    """Clones of an image in the trash."""
    try:
        with mapped(f"looking what needs image {image_uuid}"), handle.image(IMAGE + image_uuid) as image:
            if not any(snap["name"] == BASE for snap in image.list_snaps()):
                return []
            image.set_snap(BASE)
            children = {child["id"] for child in image.list_children2() if child["trash"]}
    except NotFound:
        return []
    return [disk for disk in trash(handle) if disk.ident in children]


def purge(handle: Handle, uuid: str, ident: str, mark: Mark, early: bool) -> bool:
    name = DISK + uuid
    if not _is_there(handle, uuid, ident):
        return False
    refuse_to_remove(name, *_mark_of(handle, ident), mark, unmarked=False)
    try:
        with mapped(f"removing {name} ({ident}) from the trash"):
            rbd.RBD().trash_remove(handle.ioctx, ident, early)
    except NotFound:
        return _prove_gone(handle, uuid, ident)  # another node was faster
    return True


def restore(handle: Handle, uuid: str, ident: str, mark: Mark) -> bool:
    name = DISK + uuid
    if not _is_there(handle, uuid, ident):
        return False
    refuse_to_remove(name, *_mark_of(handle, ident), mark, unmarked=True)
    try:
        with mapped(f"taking {name} ({ident}) out of the trash"):
            rbd.RBD().trash_restore(handle.ioctx, ident, name)
    except NotFound:
        return _prove_gone(handle, uuid, ident)
    return True


def _prove_gone(handle: Handle, uuid: str, ident: str) -> bool:
    """False when that object is not in the trash any more; raises Unavailable while it is.

    Safety: librbd says "not found" also of a part of an object, and its record is dropped for this answer.
    """
    if _is_there(handle, uuid, ident):
        raise Unavailable(
            f"{DISK}{uuid} ({ident}) is still in the trash: Ceph did not find a part of it; try again"
        )
    return False


def _is_there(handle: Handle, uuid: str, ident: str) -> bool:
    return any(disk.ident == ident and disk.uuid == uuid for disk in trash(handle))


def _mark_of(handle: Handle, ident: str) -> tuple[Found | None, str]:
    """The mark of an object that has no name any more, and its id."""
    with (
        mapped(f"reading whose {ident} is"),
        rbd.Image(handle.ioctx, image_id=ident, read_only=True) as image,
    ):
        return ceph_marks.read(image), str(image.id())


def strays(handle: Handle, known: frozenset[str]) -> list[Stray]:
    """Images and disks, also in the trash, with names such as ours and UUIDs that nobody knows."""
    with mapped("listing images and disks"):
        names = sorted(rbd.RBD().list(handle.ioctx))
    found = [(name, "") for name in names if _unknown(name, known)]
    found += [(f"{e['name']} (trash, {e['id']})", str(e["id"])) for e in _entries(handle)
              if _unknown(e["name"], known)]  # fmt: skip
    return [
        Stray(name=name, why=_why(handle, name, ident) if at < SHOWN else "")
        for at, (name, ident) in enumerate(found)
    ]


def _unknown(name: str, known: frozenset[str]) -> bool:
    return any(name.startswith(kind) and name.removeprefix(kind) not in known for kind in (IMAGE, IMPORT, DISK))


def _why(handle: Handle, name: str, ident: str) -> str:
    try:
        if ident:
            found, ident = _mark_of(handle, ident)
        else:
            with mapped(f"reading whose {name} is"), handle.image(name) as image:
                found, ident = ceph_marks.read(image), str(image.id())
    except NotFound:
        return "it is gone meanwhile, or cannot be opened"
    if found is None:
        return "it bears no mark"
    return told(found) if found.ident == ident else "it is a copy that was made by hand"
