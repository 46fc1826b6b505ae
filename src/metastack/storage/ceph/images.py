"""Images and disks as RBD images: operations, each safe to repeat after a crash at any step.

Owns: the names ``image-UUID`` (complete, with a protected snapshot ``base``), ``import-UUID`` (a half import)
and ``vm-UUID`` (a disk). Refuses: removing what a live client has open or what clones depend on.
Rule: an ``image-`` is complete, because it gets that name last.

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

import rados
import rbd
import structlog

from metastack.ports import DiskInfo, Exists, InUse, InvalidImage, Mark, MissingDisk, NotFound, Unavailable
from metastack.ports.ownership import refuse_to_remove, refuse_to_use

from . import fence_addresses as ceph_fence
from . import marks as ceph_marks
from .errors import mapped
from .handle import Handle, host_of, plain

log = structlog.get_logger()

FEATURES = 61
"""layering, exclusive-lock, object-map, fast-diff, deep-flatten."""
ORDER = 22
"""4 MiB objects."""
BASE = "base"
TRASH = "rbd_trash"
"""librbd's own name for the object."""
IMAGE, IMPORT, DISK = "image-", "import-", "vm-"


def start_import(handle: Handle, uuid: str, size_bytes: int) -> None:
    _make_trash(handle)
    if IMAGE + uuid in rbd.RBD().list(handle.ioctx):
        raise Exists(f"image {uuid} exists already in {handle.who}")
    with mapped(
        f"creating {IMPORT}{uuid} (an import of it may be under way or have died: delete the image first)"
    ):
        rbd.RBD().create(handle.ioctx, IMPORT + uuid, size_bytes, ORDER, old_format=False, features=FEATURES)


def _make_trash(handle: Handle) -> None:
    """The trash is made before the first disk: a full pool cannot make it, and could then delete nothing."""
    with mapped(f"making the trash of {handle.who}"), rados.WriteOpCtx() as op:
        op.new(rados.LIBRADOS_CREATE_IDEMPOTENT)
        handle.ioctx.operate_write_op(op, TRASH)


def finish_import(handle: Handle, uuid: str) -> None:
    """Snapshot, protect, and only then give it its name."""
    with mapped(f"finishing {IMPORT}{uuid}"):
        with handle.image(IMPORT + uuid, read_only=False) as image:
            image.create_snap(BASE)
            image.protect_snap(BASE)
        rbd.RBD().rename(handle.ioctx, IMPORT + uuid, IMAGE + uuid)


def delete_image(handle: Handle, uuid: str, mark: Mark, unmarked: bool) -> None:
    """A complete image, the rest of a failed import, or nothing at all."""
    for name in (IMAGE + uuid, IMPORT + uuid):
        _refuse_strange(handle, name, mark, unmarked)
        _refuse_open(handle, name)
        try:
            with mapped(f"deleting {name}: a disk still depends on it, or an importer has it open"):
                _drop_base(handle, name)
                # Also when it could not be opened: librbd moves an image to the trash and removes it there,
                # and a removal that died in between is finished by this call alone.
                rbd.RBD().remove(handle.ioctx, name)
        except NotFound:
            _prove_gone(handle, name)


def _drop_base(handle: Handle, name: str) -> None:
    try:
        opened = handle.image(name, read_only=False)
    except rbd.ImageNotFound:
        return
    with opened as image:
        if any(snap["name"] == BASE for snap in image.list_snaps()):
            if image.is_protected_snap(BASE):
                image.unprotect_snap(BASE)
            image.remove_snap(BASE)


def images(handle: Handle) -> list[str]:
    with mapped("listing images"):
        names = rbd.RBD().list(handle.ioctx)
    return sorted({n.removeprefix(p) for n in names for p in (IMAGE, IMPORT) if n.startswith(p)})


def create_disk(handle: Handle, uuid: str, image_uuid: str, size_bytes: int, mark: Mark) -> None:
    parent, name = IMAGE + image_uuid, DISK + uuid
    existing = disk(handle, uuid)
    if existing is None:
        try:
            with mapped(f"reading {parent}"), handle.image(parent) as image:
                image_bytes = image.size()
        except NotFound:
            raise NotFound(f"image {image_uuid} does not exist in {handle.who}: import it first") from None
        if size_bytes < image_bytes:
            raise InvalidImage(
                f"disk {uuid} of {size_bytes} bytes is smaller than its image {image_uuid} of {image_bytes}: "
                "ask for a larger disk"
            )
        try:
            with mapped(f"cloning {parent} to {name} (its snapshot {BASE} must be there, and be protected)"):
                rbd.RBD().clone(handle.ioctx, parent, BASE, handle.ioctx, name, features=FEATURES)
        except Exists:
            pass  # somebody else was faster, or the answer to our own first try was lost
        existing = disk(handle, uuid)
    if existing:
        # Also what is left of a creation that died between its steps.
        _complete(handle, existing, size_bytes, mark)


def adopt_disk(handle: Handle, uuid: str, size_bytes: int, mark: Mark) -> None:
    name = DISK + uuid
    if (found := disk(handle, uuid)) is None:
        _prove_gone(handle, name)
        raise MissingDisk(f"its disk {name} is missing")
    _complete(handle, found, size_bytes, mark)


def _complete(handle: Handle, found: DiskInfo, size_bytes: int, mark: Mark) -> None:
    """Give a disk its mark and its size, where it has them not."""
    name = DISK + found.uuid
    unmarked = refuse_to_use(name, found.mark, found.ident, mark)
    if not unmarked and found.size_bytes >= size_bytes:
        return
    with mapped(f"marking {name}"), handle.image(name, read_only=False) as image:
        if unmarked:
            ceph_marks.write(image, mark)
        if found.size_bytes < size_bytes:
            image.resize(size_bytes)


def delete_disk(handle: Handle, uuid: str, retention_s: int, mark: Mark, unmarked: bool) -> None:
    name = DISK + uuid
    bare = _refuse_strange(handle, name, mark, unmarked)
    _refuse_open(handle, name)
    if bare and mark.cluster:
        # Of before marks, and a record names it: in the trash no name would lead to it any more.
        with mapped(f"marking {name}"), handle.image(name, read_only=False) as image:
            ceph_marks.write(image, mark)
    try:
        with mapped(f"moving {name} to the trash"):
            rbd.RBD().trash_move(handle.ioctx, name, retention_s)
    except NotFound:
        _prove_gone(handle, name)


def _prove_gone(handle: Handle, name: str) -> None:
    # Safety: librbd says "not found" also for an inner object that it cannot make, seen on a full pool
    # without a trash: the disk was still there. Absence is believed only when the directory agrees.
    if name in rbd.RBD().list(handle.ioctx):
        handle.refuse_when_full()
        raise Unavailable(f"{name} is still there: Ceph did not find a part of it; try again")


def disk(handle: Handle, uuid: str) -> DiskInfo | None:
    try:
        with mapped(f"reading {DISK}{uuid}"), handle.image(DISK + uuid) as image:
            try:
                parent = str(image.parent_info()[1]).removeprefix(IMAGE)
            except rbd.ImageNotFound:
                parent = ""
            return DiskInfo(
                uuid=uuid,
                size_bytes=int(image.size()),
                parent_image_uuid=parent,
                ident=str(image.id()),
                mark=ceph_marks.read(image),
            )
    except NotFound:
        return None


def disks(handle: Handle) -> list[str]:
    with mapped("listing disks"):
        return sorted(n.removeprefix(DISK) for n in rbd.RBD().list(handle.ioctx) if n.startswith(DISK))


def watchers(handle: Handle, name: str) -> list[str]:
    """Clients that have the image open for writing and are neither ours nor fenced."""
    try:
        with mapped(f"reading who has {name} open"), handle.image(name) as image:
            found = [str(w["addr"]) for w in image.watchers_list()]
    except NotFound:
        return []
    others = [client for client in found if plain(client) != plain(handle.address)]
    if not others:
        return []
    # A killed client stays for 30 s more; a fenced one too, but it can do no harm.
    listed = ceph_fence.entries(handle)
    return [client for client in others if not ceph_fence.shut_out(client, listed)]


def openers(handle: Handle, name: str) -> set[str]:
    """Every client that has the image open for writing or holds its lock, dead and fenced ones too."""
    with mapped(f"reading who has {name} open"), handle.image(name) as image:
        found = {plain(str(watcher["addr"])) for watcher in image.watchers_list()}
        lockers = image.list_lockers()
        return found | {plain(str(address)) for _, _, address in (lockers["lockers"] if lockers else ())}


def _refuse_strange(handle: Handle, name: str, mark: Mark, unmarked: bool) -> bool:
    """Whether it has no mark of its own. Safety: before anything of it is taken away; a name proves nothing."""
    try:
        with mapped(f"reading whose {name} is"), handle.image(name) as image:
            found, ident = ceph_marks.read(image), str(image.id())
    except NotFound:
        return False  # what a removal that died has left of it, or nothing
    refuse_to_remove(name, found, ident, mark, unmarked)
    return found is None or found.ident != ident


def _refuse_open(handle: Handle, name: str) -> None:
    if found := watchers(handle, name):
        raise InUse(f"{name} is open in {', '.join(found)} (a client that died counts for 30 s more)")


def break_locks(handle: Handle, uuid: str, addresses: tuple[str, ...]) -> None:
    # Safety: a lock is broken only when its owner is shut out at this moment, whoever asks.
    listed = ceph_fence.entries(handle)
    try:
        with mapped(f"breaking locks of {DISK}{uuid}"), handle.image(DISK + uuid, read_only=False) as image:
            for owner in list(image.lock_get_owners()):
                client = str(owner["owner"])
                if host_of(client) in addresses and ceph_fence.shut_out(client, listed):
                    image.lock_break(owner["mode"], owner["owner"])
    except NotFound:
        return
