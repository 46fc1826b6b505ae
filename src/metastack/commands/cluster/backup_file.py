"""Backup files: a snapshot of etcd as etcd's own tools restore it, and a manifest beside it.

Owns: writing under a temporary name, the checksum, manifests, and removing old ones.
Refuses: asking etcd anything.
Rule: a file has its name only when it is whole, verified and on disk. Nothing is removed that has no manifest
of the same cluster.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from msgspec import Struct

from metastack.core.quantity import format_bytes

from ..problem import Code, Problem, conflict, not_found

TRAILER_BYTES: Final = hashlib.sha256().digest_size
"""etcd ends a snapshot with the SHA-256 of what precedes."""
PAGE_BYTES: Final = 512
"""Every database of etcd is a multiple of it."""
RESERVE_BYTES: Final = 16 << 20
"""Stays free beside a backup."""
READ_BYTES: Final = 1 << 20
OURS: Final = re.compile(r"metastack-[0-9]{8}T[0-9]{6}Z-r[0-9]+\.db")

Say = Callable[[int, int], None]
"""Told of progress: bytes so far, and of all."""


class Manifest(Struct, kw_only=True):
    """What is in a backup; ``FILE.json`` beside it."""

    v: int = 1
    at: str
    by: str
    metastack: str
    cluster_id: str
    """Empty: the cluster has no recorded storage."""
    root: str
    etcd: str
    """The newest version among etcd's members."""
    revision: int
    """Everything up to it is in the file."""
    generation: int
    record_version: int
    """Level of the records."""
    counts: dict[str, int]
    """Keys of each kind at that revision."""
    size_bytes: int = 0
    sha256: str = ""
    """Of the whole file."""


def name_of(at: str, revision: int) -> str:
    """The name of a backup of that time, RFC 3339; names sort by time."""
    return f"metastack-{re.sub(r'[-:]|[.][0-9]+', '', at)}-r{revision}.db"


def beside(file: Path) -> Path:
    """Where its manifest is."""
    return file.with_name(f"{file.name}.json")


def check_folder(folder: Path) -> None:
    """Raise Problem unless backups can be written there."""
    if not folder.is_dir():
        raise not_found(f"folder {folder}", f"make it first: `install -d -m 0700 {folder}`")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise Problem(Code.DENIED, f"folder {folder}", "this user may not write there", "choose another folder")


def check_new(file: Path) -> None:
    """Raise Problem when that file is there: no backup is overwritten."""
    if file.is_symlink() or file.exists():
        raise conflict(f"file {file}", "exists already", "choose another name, or remove it first")


@contextlib.contextmanager
def sole_writer(folder: Path) -> Iterator[None]:
    """Only one backup at a time writes into a folder; raises Problem."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise conflict(f"folder {folder}", "another backup is being written there", "wait for it") from None
        yield
        os.fsync(handle)
    finally:
        os.close(handle)


async def write(file: Path, parts: AsyncIterator[tuple[bytes, int]], manifest: Manifest, say: Say) -> Manifest:
    """Write a snapshot and its manifest; the manifest with size and checksum. Raises Problem."""
    aside = file.with_name(f".{file.name}.part")
    try:
        with _create(aside) as out:
            done = total = 0
            async for data, left_bytes in parts:
                if not done:
                    total = len(data) + left_bytes
                    _check_space(file.parent, total + TRAILER_BYTES)
                out.write(data)
                done += len(data)
                say(min(done, total), total)
            out.flush()
            os.fsync(out.fileno())
        size_bytes, sha256 = verify(aside)
        whole = msgspec.structs.replace(manifest, size_bytes=size_bytes, sha256=sha256)
        _write_manifest(beside(file), whole)
        os.rename(aside, file)
    except OSError as error:
        raise Problem(
            Code.FAILED, f"file {file}", f"cannot be written: {error.strerror}", "no backup was made"
        ) from None
    finally:
        aside.unlink(missing_ok=True)
    return whole


def _create(path: Path) -> contextlib.AbstractContextManager[Any]:
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    os.fchmod(handle, 0o600)
    return os.fdopen(handle, "wb")


def _write_manifest(path: Path, manifest: Manifest) -> None:
    aside = path.with_name(f".{path.name}.part")
    with _create(aside) as out:
        out.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")
        out.flush()
        os.fsync(out.fileno())
    os.replace(aside, path)


def _check_space(folder: Path, size_bytes: int) -> None:
    found = os.statvfs(folder)
    free_bytes = found.f_bavail * found.f_frsize
    if free_bytes < size_bytes + RESERVE_BYTES:
        raise Problem(
            Code.FAILED,
            f"folder {folder}",
            f"has {format_bytes(free_bytes)} free; the backup needs {format_bytes(size_bytes + RESERVE_BYTES)}",
            "free space there, or choose another folder",
        )


def verify(file: Path) -> tuple[int, str]:
    """Its size and SHA-256; raises Problem unless it is a whole snapshot, by etcd's own checksum."""
    object = f"file {file}"
    inner, outer, held, size_bytes = hashlib.sha256(), hashlib.sha256(), b"", 0
    try:
        with file.open("rb") as source:
            while data := source.read(READ_BYTES):
                size_bytes += len(data)
                outer.update(data)
                held += data
                inner.update(held[:-TRAILER_BYTES])
                held = held[-TRAILER_BYTES:]
    except FileNotFoundError:
        raise not_found(object, "check the path") from None
    except OSError as error:
        raise Problem(Code.FAILED, object, f"cannot be read: {error.strerror}") from None
    hint = "use another backup"
    if size_bytes % PAGE_BYTES != TRAILER_BYTES:
        raise Problem(Code.FAILED, object, "is no whole snapshot of etcd: its size does not fit", hint)
    if inner.digest() != held:
        raise Problem(Code.FAILED, object, "is damaged: etcd's checksum at its end does not match", hint)
    return size_bytes, outer.hexdigest()


def read_manifest(file: Path) -> Manifest | None:
    """The manifest beside a backup; None: there is none that can be read."""
    try:
        return msgspec.json.decode(beside(file).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError):
        return None


class Verified(Struct, kw_only=True):
    """A file that is a whole backup."""

    file: str
    size_bytes: int
    sha256: str
    manifest: Manifest | None
    """Null: there is none beside it, as with `etcdctl snapshot save`."""


def verified(file: Path) -> Verified:
    """That a file is a whole backup, by etcd's checksum and its manifest's; raises Problem."""
    size_bytes, sha256 = verify(file)
    manifest = read_manifest(file)
    if manifest is not None and (manifest.size_bytes, manifest.sha256) != (size_bytes, sha256):
        raise Problem(
            Code.FAILED,
            f"file {file}",
            f"is not the backup that {beside(file).name} describes: its checksum is another one",
            "put the right two files together, or move the manifest away to use the file without one",
        )
    return Verified(file=str(file.absolute()), size_bytes=size_bytes, sha256=sha256, manifest=manifest)


def prune(folder: Path, newest: Manifest, keep: int) -> list[str]:
    """Remove this cluster's older backups and what a killed run left; the names of removed backups.

    Call it as the sole writer.
    """
    for left in folder.glob(".metastack-*.part"):
        left.unlink(missing_ok=True)
    for manifest in folder.glob("metastack-*.db.json"):
        file = manifest.with_name(manifest.name.removesuffix(".json"))
        if OURS.fullmatch(file.name) and not file.exists():
            manifest.unlink(missing_ok=True)
    older = []
    for file in folder.glob("metastack-*.db"):
        found = read_manifest(file) if OURS.fullmatch(file.name) else None
        if found is None or found.sha256 == newest.sha256:
            continue
        if (found.cluster_id, found.root) == (newest.cluster_id, newest.root):
            older.append(file)
    gone = sorted(older, key=lambda file: file.name, reverse=True)[keep - 1 :]
    for file in gone:
        file.unlink(missing_ok=True)
        beside(file).unlink(missing_ok=True)
    return sorted(file.name for file in gone)
