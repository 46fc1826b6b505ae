"""Images and disks as files in one shared folder: operations, each safe to repeat after a crash at any step.

Owns: ``images/UUID.raw`` (complete), ``images/UUID.part`` (a half import), ``disks/UUID.qcow2`` (an overlay),
the way into the trash (:mod:`.trash`). Refuses: removing what a QEMU writes to or what overlays depend on.
Rule: a file gets its final name last, by a link or rename that never replaces anything.

Everything here blocks: it runs in the adapter's threads.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from metastack.ports import (
    Denied,
    DiskFormat,
    DiskInfo,
    Exists,
    ImageInfo,
    InUse,
    InvalidImage,
    Mark,
    MissingDisk,
    NoSpace,
    NotFound,
    Opener,
    Progress,
    Refused,
    Unavailable,
)
from metastack.ports.ownership import refuse_to_remove, refuse_to_use

from .. import image_source as source
from .. import qcow2
from .lock import holders, write_locked
from .marks import Marks, ident

_QEMU_IMG_S = 60.0


@contextmanager
def mapped(what: str) -> Iterator[None]:
    """Turn OSError into the ports' families."""
    try:
        yield
    except OSError as error:
        said = f"{what}: {error.strerror or error}"
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise NoSpace(f"{said}: free space in the storage folder") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Denied(f"{said}: check the folder's owner, mode and mount options") from error
        if error.errno == errno.ENOENT:
            raise NotFound(said) from error
        raise Unavailable(said) from error


class Folder:
    """The shared folder and its parts."""

    def __init__(self, directory: str, timeout_s: float) -> None:
        self.root = Path(directory)
        self.images = self.root / "images"
        self.disks = self.root / "disks"
        self.trash = self.root / "trash"
        self.marks = Marks(self.root / "marks")
        self._timeout_s = timeout_s

    def image(self, uuid: str) -> Path:
        return self.images / f"{uuid}.raw"

    def part(self, uuid: str) -> Path:
        return self.images / f"{uuid}.part"

    def disk(self, uuid: str) -> Path:
        return self.disks / f"{uuid}.qcow2"

    def prepare(self) -> None:
        """Make the parts, and prove that we may write."""
        if not self.root.is_absolute():
            raise Refused(f"the storage folder must be an absolute path, not {str(self.root)!r}")
        if not self.root.is_dir():
            # Not made here: a shared folder that is not mounted would become a private one.
            raise Unavailable(f"the storage folder {self.root} does not exist: mount or create it")
        with mapped(f"preparing {self.root}"):
            for part in (self.images, self.disks, self.trash, self.marks.folder):
                part.mkdir(mode=0o711, exist_ok=True)
            probe = self.trash / f".probe-{secrets.token_hex(8)}"
            probe.touch(exist_ok=False)
            probe.unlink()

    def probe(self) -> None:
        """Read from it: a shared folder whose server is gone hangs here, and nowhere else."""
        with mapped(f"reading {self.root}"):
            try:
                os.listdir(self.disks)
            except FileNotFoundError:
                raise Unavailable(f"the storage folder {self.root} no longer exists: mount it") from None

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """One operation at a time among all nodes: makers of overlays against removers of images."""
        fd = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            deadline = time.monotonic() + self._timeout_s
            while not _try_lock(fd):
                if time.monotonic() > deadline:
                    raise Unavailable(
                        f"{self.root / 'lock'} is held by another process for {self._timeout_s:.0f} s"
                    )
                time.sleep(0.02)
            yield
        finally:
            os.close(fd)


def _try_lock(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def sync(directory: Path) -> None:
    """Make renames and links in a folder durable."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


# --- images


def import_image(
    folder: Folder,
    uuid: str,
    path: str,
    fmt: DiskFormat | None,
    progress: Progress,
    size_limit: int,
    stop: threading.Event,
    mark: Mark,
) -> ImageInfo:
    opened = source.open_source(path, fmt, size_limit)
    try:
        with mapped(f"importing {path} into {folder.images}"):
            sha256 = _import(folder, uuid, opened, progress, stop, mark)
    finally:
        source.close(opened)
    return ImageInfo(size_bytes=opened.size_bytes, sha256=sha256, format=opened.format)


def _import(
    folder: Folder,
    uuid: str,
    opened: source.ImageSource,
    progress: Progress,
    stop: threading.Event,
    mark: Mark,
) -> str:
    image, part = folder.image(uuid), folder.part(uuid)
    if image.exists():
        raise Exists(f"image {uuid} exists already in {folder.images}")
    try:
        fd = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise Exists(
            f"{part} exists: another import of it is under way, or died (then delete the image first)"
        ) from None
    try:
        # Held while we live: tells delete_image() a living importer from a dead one.
        if not _try_lock(fd) or not _is(part, fd):
            raise InUse(f"{part} is being deleted")
        folder.marks.write(uuid, mark, part)
        os.ftruncate(fd, opened.size_bytes)
        if opened.format is DiskFormat.RAW:
            sha256 = source.copy(
                opened.fd, opened.size_bytes, lambda data, at: _write(fd, data, at), progress, stop
            )
        else:
            sha256 = source.checksum(opened, progress, stop)
            source.convert(opened, fd, str(folder.images), stop)
        os.fchmod(fd, 0o444)
        os.fsync(fd)
        try:
            os.link(part, image)
        except FileExistsError:
            raise Exists(f"image {uuid} exists already in {folder.images}") from None
    finally:
        if _is(part, fd):
            part.unlink(missing_ok=True)
        os.close(fd)
        sync(folder.images)
    return sha256


def _is(path: Path, fd: int) -> bool:
    """Whether that name is still that open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(fd))
    except FileNotFoundError:
        return False


def _write(fd: int, data: bytes, at: int) -> None:
    view = memoryview(data)
    while view:
        done = os.pwrite(fd, view, at)
        view, at = view[done:], at + done


def delete_image(folder: Folder, uuid: str, mark: Mark, unmarked: bool) -> None:
    with mapped(f"deleting image {uuid}"), folder.exclusive():
        part = folder.part(uuid)
        for path in (part, folder.image(uuid)):
            _refuse_strange(folder, "image", uuid, path, mark, unmarked)
        with contextlib.suppress(FileNotFoundError):
            fd = os.open(part, os.O_RDWR | os.O_CLOEXEC)
            try:
                if not _try_lock(fd):
                    raise InUse(f"{part}: its importer is alive")
                part.unlink()
            finally:
                os.close(fd)
        for overlay in (*folder.disks.glob("*.qcow2"), *folder.trash.glob("*.qcow2")):
            with contextlib.suppress(FileNotFoundError):
                if Path(header(overlay).backing).name == folder.image(uuid).name:
                    raise InUse(f"image {uuid}: the disk {overlay} depends on it")
        folder.image(uuid).unlink(missing_ok=True)
        folder.marks.drop("image", uuid)
        sync(folder.images)


def images(folder: Folder) -> list[str]:
    with mapped(f"listing {folder.images}"):
        return sorted({f.stem for f in folder.images.iterdir() if f.suffix in (".raw", ".part")})


# --- disks


def create_disk(folder: Folder, uuid: str, image_uuid: str, size_bytes: int, mark: Mark) -> None:
    disk, image = folder.disk(uuid), folder.image(image_uuid)
    with mapped(f"creating disk {uuid}"), folder.exclusive():
        if disk.exists():
            _complete(folder, uuid, mark)
            return
        if not image.exists():
            raise NotFound(f"image {image_uuid} does not exist in {folder.images}: import it first")
        if size_bytes < (image_bytes := image.stat().st_size):
            raise InvalidImage(
                f"disk {uuid} of {size_bytes} bytes is smaller than its image {image_uuid} of {image_bytes}: "
                "ask for a larger disk"
            )
        for left in folder.disks.glob(f".new-{uuid}-*"):
            left.unlink(missing_ok=True)  # of a creation that died: whoever makes this disk holds the lock
        new = folder.disks / f".new-{uuid}-{secrets.token_hex(4)}"
        try:
            _create_overlay(new, f"../images/{image.name}", size_bytes)
            folder.marks.write(uuid, mark, new)
            os.link(new, disk)
        except FileExistsError:
            return
        finally:
            new.unlink(missing_ok=True)
        sync(folder.disks)


def _create_overlay(new: Path, backing: str, size_bytes: int) -> None:
    # -u: the image is not opened; it was looked at just now. Relative: nodes may mount the folder elsewhere.
    argv = [
        "qemu-img",
        "create",
        "-q",
        "-u",
        "-f",
        "qcow2",
        "-F",
        "raw",
        "-b",
        backing,
        str(new),
        str(size_bytes),
    ]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_QEMU_IMG_S, check=False
        )
    except FileNotFoundError:
        raise Refused("qemu-img is missing: install qemu-utils") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"qemu-img create {new}: not done within {_QEMU_IMG_S:.0f} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()
        if "No space left" in said or "quota exceeded" in said:
            raise NoSpace(f"creating {new}: {said}: free space in the storage folder")
        raise Unavailable(f"qemu-img create {new}: {said}")
    fd = os.open(new, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def adopt_disk(folder: Folder, uuid: str, size_bytes: int, mark: Mark) -> None:
    with mapped(f"looking at disk {uuid}"):
        if not folder.disk(uuid).exists():
            raise MissingDisk(f"its disk {folder.disk(uuid)} is missing")
        _complete(folder, uuid, mark)


def _complete(folder: Folder, uuid: str, mark: Mark) -> None:
    """Give a disk its mark, where it has it not. It got its size before it got its name."""
    path = folder.disk(uuid)
    if refuse_to_use(str(path), folder.marks.read("disk", uuid), ident(path), mark):
        folder.marks.write(uuid, mark, path)


def _refuse_strange(folder: Folder, kind: str, uuid: str, path: Path, mark: Mark, unmarked: bool) -> bool:
    """Whether it has no mark of its own. Safety: before anything of it is taken away; a name proves nothing."""
    with contextlib.suppress(FileNotFoundError):
        found, its = folder.marks.read(kind, uuid), ident(path)
        refuse_to_remove(str(path), found, its, mark, unmarked)
        return found is None
    return False


def delete_disk(folder: Folder, uuid: str, retention_s: int, mark: Mark, unmarked: bool) -> None:
    disk = folder.disk(uuid)
    if locked(folder, uuid):
        raise InUse(f"{disk} is open for writing in a QEMU")
    with mapped(f"moving disk {uuid} to the trash"), folder.exclusive():
        if _refuse_strange(folder, "disk", uuid, disk, mark, unmarked):
            # Of before marks, and a record names it.
            folder.marks.write(uuid, mark, disk)
        expiry = int(time.time()) + max(0, retention_s)
        with contextlib.suppress(FileNotFoundError):
            for left in folder.trash.glob(f"{uuid}.*.qcow2"):
                if left.samefile(disk):
                    left.unlink()  # of a restore that died between its two steps
            os.rename(disk, folder.trash / f"{uuid}.{expiry}.qcow2")
            sync(folder.trash)
            sync(folder.disks)


def disk(folder: Folder, uuid: str) -> DiskInfo | None:
    with mapped(f"reading disk {uuid}"):
        try:
            head, its = header(folder.disk(uuid)), ident(folder.disk(uuid))
        except FileNotFoundError:
            return None
    return DiskInfo(
        uuid=uuid,
        size_bytes=head.size_bytes,
        parent_image_uuid=Path(head.backing).stem,
        ident=its,
        mark=folder.marks.read("disk", uuid),
    )


def disks(folder: Folder) -> list[str]:
    with mapped(f"listing {folder.disks}"):
        return sorted(f.stem for f in folder.disks.glob("[!.]*.qcow2"))


def openers(folder: Folder, uuid: str) -> tuple[Opener, ...]:
    """Holders of QEMU's write lock of the disk; of this host's processes by name, else of "another host"."""
    with mapped(f"looking at the lock of disk {uuid}"):
        path = str(folder.disk(uuid))
        try:
            if not write_locked(path):
                return ()
        except FileNotFoundError:
            return ()
        found = holders(path)
    if not found:
        return (Opener(client="a process of another host, or one that this agent may not see", locking=True),)
    return tuple(Opener(client=f"{name} (process {pid})", locking=True, pid=pid) for pid, name in found)


def locked(folder: Folder, uuid: str) -> bool:
    with mapped(f"looking at the lock of disk {uuid}"):
        try:
            return write_locked(str(folder.disk(uuid)))
        except FileNotFoundError:
            return False


def header(path: Path) -> qcow2.Header:
    with path.open("rb") as file:
        head = file.read(qcow2.READ_BYTES)
        return qcow2.read_header(head, os.fstat(file.fileno()).st_size)
