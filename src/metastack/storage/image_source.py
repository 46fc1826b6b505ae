"""A local file on its way in: detect what it is, refuse what must not come in, read it in chunks.

Owns: the open source file, its checksum, the conversion of qcow2. Refuses (InvalidImage): anything that is
not a plain raw or a self-contained qcow2 file. Rule: the file is opened once; every later look, qemu-img's
too, goes through that descriptor, and at most a few chunks are in memory.

Why qcow2 goes through a sparse temporary raw file: qemu-img cannot write to a pipe. Letting it write to RBD
itself would put librbd, a configuration file and the key into a child process whose memory and time-outs are
not ours. The temporary file holds at most what is allocated in the image, checked against free space before. It
is unlinked from the start, so that nothing is left even after SIGKILL.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from typing import Any

from msgspec import Struct

from metastack.ports import (
    BadState,
    DiskFormat,
    InvalidImage,
    NoSpace,
    NotFound,
    Progress,
    Refused,
    Unavailable,
)

from . import qcow2
from .foreign_formats import TAIL_BYTES, foreign

CHUNK_BYTES = 4 << 20
_ZEROS = bytes(CHUNK_BYTES)
_STALL_S = 3600.0
_ADDRESS_SPACE_BYTES = 2 << 30
_BEYOND = re.compile(rb"exceeding the end of the file[^\n]*: offset 0x([0-9a-f]+) size 0x([0-9a-f]+)")
_OUR_NAME = re.compile(r"^qemu-img: |'json:\{.*\}'(: )?|\\x0a")


class ImportCancelled(Exception):
    """The import was cancelled; caught by the adapters' import only."""


class ImageSource(Struct, kw_only=True):
    """An opened source. ``fd`` stays open until :func:`close`."""

    path: str
    fd: int
    file_bytes: int
    format: DiskFormat
    size_bytes: int
    """Virtual size."""


def open_source(path: str, fmt: DiskFormat | None, size_limit: int) -> ImageSource:
    """Open and inspect; InvalidImage, NotFound or Refused say what is wrong with it."""
    try:
        # O_NONBLOCK: a FIFO would block the open; it is refused below.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file") from None
    except OSError as error:
        raise Refused(f"{path}: cannot be read: {error.strerror}") from None
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            raise InvalidImage(f"{path}: not a regular file")
        head = os.pread(fd, qcow2.READ_BYTES, 0)
        tail = os.pread(fd, TAIL_BYTES, max(0, found.st_size - TAIL_BYTES))
        try:
            fmt, size_bytes = _inspect(head, tail, found.st_size, fmt)
        except InvalidImage as error:
            raise InvalidImage(f"{path}: {error}") from None
        if size_limit and size_bytes > size_limit:
            raise InvalidImage(
                f"{path}: its virtual size of {size_bytes} bytes is above the limit of {size_limit}"
            )
    except BaseException:
        os.close(fd)
        raise
    return ImageSource(path=path, fd=fd, file_bytes=found.st_size, format=fmt, size_bytes=size_bytes)


def close(source: ImageSource) -> None:
    os.close(source.fd)


def _inspect(head: bytes, tail: bytes, file_bytes: int, fmt: DiskFormat | None) -> tuple[DiskFormat, int]:
    if not head:
        raise InvalidImage("the file is empty")
    if fmt is None:
        # Safety: only one magic is ever probed for; whatever else the file says, it is opaque bytes.
        fmt = DiskFormat.QCOW2 if head.startswith(qcow2.MAGIC) else DiskFormat.RAW
        if fmt is DiskFormat.RAW and (why := foreign(head, tail)):
            raise InvalidImage(why)
    if fmt is DiskFormat.QCOW2:
        return fmt, qcow2.parse(head, file_bytes).size_bytes
    if file_bytes % 512:
        raise InvalidImage(
            f"not a raw disk image, or one that was cut short: its {file_bytes} bytes are no multiple of 512; "
            "to import it as it is, fill its last sector (truncate -s %512 FILE)"
        )
    return fmt, file_bytes


def checksum(source: ImageSource, progress: Progress, stop: threading.Event) -> str:
    """sha256 of the source's bytes; holes cost no reads."""
    return copy(source.fd, source.file_bytes, lambda _data, _at: None, progress, stop)


def _zeros(left: int) -> memoryview:
    return memoryview(_ZEROS)[: min(left, CHUNK_BYTES)]


def chunks(fd: int, size_bytes: int) -> Iterator[tuple[int, bytes | None]]:
    """(offset, data) for each chunk in order; data is None where the file has a hole or only zeros."""
    data_from = -1
    for at in range(0, size_bytes, CHUNK_BYTES):
        if data_from < at:
            data_from = _next_data(fd, at, size_bytes)
        length = min(CHUNK_BYTES, size_bytes - at)
        if data_from >= at + length:
            yield at, None
            continue
        data_from = -1
        data = os.pread(fd, length, at)
        if len(data) != length:
            raise InvalidImage(f"the file changed while it was read: it ends at byte {at + len(data)} now")
        os.posix_fadvise(fd, at, length, os.POSIX_FADV_DONTNEED)
        yield at, None if data == _zeros(length) else data


def _next_data(fd: int, at: int, size_bytes: int) -> int:
    try:
        return os.lseek(fd, at, os.SEEK_DATA)
    except OSError:
        return size_bytes  # ENXIO: nothing but a hole up to the end


def spool(source: ImageSource, directory: str, stop: threading.Event) -> int:
    """Convert a qcow2 source into an unlinked sparse raw file below ``directory``; its descriptor."""
    folder = directory or os.environ.get("TMPDIR", "/var/tmp")
    name = ""
    try:
        fd, name = tempfile.mkstemp(prefix="metastack-import-", dir=folder)
    except OSError as error:
        raise Refused(f"{folder}: no temporary file can be made ({error.strerror}): set TMPDIR") from None
    os.unlink(name)
    try:
        convert(source, fd, folder, stop)
    except BaseException:
        os.close(fd)
        raise
    return fd


def convert(source: ImageSource, target_fd: int, folder: str, stop: threading.Event) -> None:
    """Check a qcow2 source with qemu-img, then write it as sparse raw into an open file of ``folder``."""
    check = _qemu_img(["check", "--output=json", _no_references(source.fd)], [source.fd], stop)
    # 2: corrupt; 3: leaked clusters, which harm nobody; 1, 63: could not check.
    if check.returncode not in (0, 3):
        raise InvalidImage(f"{source.path}: {_verdict(check, source.file_bytes)}")
    report: dict[str, Any] = json.loads(check.stdout or b"{}")
    header = qcow2.parse(os.pread(source.fd, qcow2.READ_BYTES, 0), source.file_bytes)
    # QEMU reads zeros behind the end of a file and checks nothing there. The last cluster may rightly be
    # short, for it is written only as far as it has data.
    end_bytes = int(report.get("image-end-offset", 0))
    if end_bytes >= source.file_bytes + header.cluster_bytes:
        raise InvalidImage(
            f"{source.path}: truncated qcow2 file: its data ends at byte {end_bytes}, "
            f"the file at byte {source.file_bytes}"
        )
    with_data = int(report.get("allocated-clusters", 0)) * header.cluster_bytes
    free = shutil.disk_usage(folder).free
    if with_data > free:
        raise NoSpace(
            f"{folder}: {with_data} bytes are needed to unpack {source.path}, but {free} are free: "
            "free space, or set TMPDIR to another folder"
        )
    os.ftruncate(target_fd, source.size_bytes)
    done = _qemu_img(
        # -n and an existing target: the file that we hold, not one of that name. No cache and few
        # coroutines keep qemu-img's memory small.
        ["convert", "-n", "-O", "raw", "-m", "2", "-t", "writeback", "-S", "64k", "--target-is-zero",
         _no_references(source.fd), _ours(target_fd)],
        [source.fd, target_fd],
        stop,
    )  # fmt: skip
    if done.returncode:
        if b"No space left" in done.stderr or b"Disk quota exceeded" in done.stderr:
            raise NoSpace(f"{folder} is full while unpacking {source.path}: free space, or set TMPDIR")
        raise InvalidImage(f"{source.path}: qemu-img cannot convert it: {_said(done)}")


def _no_references(fd: int) -> str:
    # Safety: the driver is named, so nothing is probed; backing is overridden with nothing, so even a header
    # that changed since it was checked opens no other file.
    opened = {"driver": "file", "filename": f"/proc/self/fd/{fd}"}
    return "json:" + json.dumps({"driver": "qcow2", "backing": None, "file": opened})


def _ours(fd: int) -> str:
    # Nobody else knows this file; where flock and fcntl locks are one (NFS), QEMU's would meet our own.
    opened = {"driver": "file", "filename": f"/proc/self/fd/{fd}", "locking": "off"}
    return "json:" + json.dumps({"driver": "raw", "file": opened})


def _qemu_img(args: list[str], fds: list[int], stop: threading.Event) -> subprocess.CompletedProcess[bytes]:
    limits = ["prlimit", f"--as={_ADDRESS_SPACE_BYTES}", "--core=0", "--"]
    try:
        process = subprocess.Popen(
            [*limits, "qemu-img", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=fds,
        )
    except FileNotFoundError as error:
        raise Refused(f"{error.filename} is missing: install qemu-utils to import qcow2 images") from None
    with process:
        try:
            waited_s = 0.0
            while True:
                try:
                    out, err = process.communicate(timeout=0.2)
                    return subprocess.CompletedProcess(args, process.returncode, out, err)
                except subprocess.TimeoutExpired:
                    waited_s += 0.2
                if stop.is_set():
                    raise ImportCancelled
                if waited_s > _STALL_S:
                    raise Unavailable(f"qemu-img {args[0]} did not end within {_STALL_S:.0f} s")
        finally:
            if process.poll() is None:
                process.kill()
                process.communicate()


def _verdict(check: subprocess.CompletedProcess[bytes], file_bytes: int) -> str:
    """What ``qemu-img check`` found, in one sentence; it says thousands of lines itself."""
    ends = [int(at, 16) + int(size, 16) for at, size in _BEYOND.findall(check.stderr)]
    if ends:
        return (
            f"truncated or corrupt qcow2 file: its tables name data up to byte {max(ends)}, "
            f"and the file ends at byte {file_bytes}"
        )
    if check.returncode == 2:
        try:
            count = int(json.loads(check.stdout)["corruptions"])
        except (ValueError, TypeError, KeyError):
            count = 0
        return f"corrupt qcow2 file: qemu-img check finds {count or 'unknown'} errors in its tables"
    return f"qemu-img cannot read the qcow2 file: {_said(check)}"


def _said(done: subprocess.CompletedProcess[bytes]) -> str:
    text = done.stderr.decode(errors="replace").strip() or done.stdout.decode(errors="replace").strip()
    # Its first line names our way to the file, which means nothing to anybody.
    line = _OUR_NAME.sub("", text.splitlines()[0]) if text else ""
    return line[:300] or f"exit code {done.returncode}"


def copy(
    fd: int,
    size_bytes: int,
    write: Callable[[bytes, int], object],
    progress: Progress,
    stop: threading.Event,
) -> str:
    """Hand every chunk that is not zero to ``write(data, offset)``; sha256 of the whole.

    The zeros are hashed too, a second for each GiB or less: :func:`fill` is for who needs no digest.
    """
    digest = hashlib.sha256()
    for at, data in chunks(fd, size_bytes):
        if stop.is_set():
            raise ImportCancelled
        if data is not None:
            write(data, at)
        digest.update(data if data is not None else _zeros(size_bytes - at))
        progress(min(at + CHUNK_BYTES, size_bytes), size_bytes)
    return digest.hexdigest()


def fill(
    fd: int,
    size_bytes: int,
    write: Callable[[bytes, int], object],
    progress: Progress,
    stop: threading.Event,
) -> None:
    """Hand every chunk that is not zero to ``write(data, offset)``; holes cost nothing."""
    for at, data in chunks(fd, size_bytes):
        if stop.is_set():
            raise ImportCancelled
        if data is not None:
            write(data, at)
            progress(min(at + CHUNK_BYTES, size_bytes), size_bytes)
    progress(size_bytes, size_bytes)


def check_uuid(uuid: str) -> str:
    """A name that is safe in file names and RBD image names; BadState otherwise."""
    if not uuid or len(uuid) > 64 or not all(c.isascii() and (c.isalnum() or c == "-") for c in uuid):
        raise BadState(f"not a UUID: {uuid!r}")
    return uuid
