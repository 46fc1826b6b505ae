"""``cluster backup``: a consistent snapshot of etcd in a file, by etcd's own Snapshot request.

Owns: what the manifest says, and the record of the newest backup. Refuses: files (:mod:`.backup_file`).
Rule: the record is written last, so it never names a file that is not whole.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from msgspec.structs import asdict

from metastack import __version__
from metastack.core.model import Backup, Generation, StorageIdentity
from metastack.core.state.codec import encode
from metastack.core.state.keys import Kind
from metastack.core.transaction import Put
from metastack.ports import Denied, Refused, Unavailable

from ..problem import Code, Problem, usage
from ..request import Cluster, Plan, Request, commit
from . import backup_file
from .backup_file import Manifest, Say

ROOT_ALONE: Final = (
    "etcd gives a snapshot to its role root alone: use a context with the certificate of the service backup, "
    "`metastack pki issue service backup`"
)


@runtime_checkable
class GivesSnapshots(Protocol):
    """A store that can be saved; the in-memory twin cannot."""

    async def status(self) -> tuple[Any, ...]: ...
    async def count(self, *prefixes: str) -> tuple[int, tuple[int, ...]]: ...
    def snapshot(self) -> AsyncGenerator[tuple[bytes, int], None]: ...


class BackupView(Manifest, kw_only=True):
    """A backup that was made."""

    file: str
    removed: list[str]
    """Older backups that were removed."""
    trouble: str | None = None
    """Why the whole file was not recorded in etcd: `doctor` does not know of it."""


def check_target(file: Path | None, folder: Path | None, keep: int | None) -> None:
    """Raise Problem unless a backup can be made there; before etcd is asked anything."""
    if (file is None) == (folder is None):
        raise usage(
            "backup", "needs a FILE, or a folder with --to", "such as `metastack cluster backup --to .`"
        )
    if keep is not None and folder is None:
        raise usage("backup", "--keep needs --to", "name a folder with --to, or leave --keep out")
    if folder is not None:
        backup_file.check_folder(folder)
    if file is not None:
        backup_file.check_folder(file.parent)
        backup_file.check_new(file)


async def back_up(
    cluster: Cluster, request: Request, file: Path | None, folder: Path | None, keep: int | None, say: Say
) -> BackupView:
    """Save etcd into a file, or into a folder of which the newest ``keep`` stay. Raises Problem."""
    check_target(file, folder, keep)
    store = cluster.store
    if not isinstance(store, GivesSnapshots):
        raise Problem(Code.FAILED, "etcd", "this store gives no snapshots")
    try:
        manifest = await _manifest(cluster, store, request)
        name = backup_file.name_of(manifest.at, manifest.revision)
        target = file if file is not None else Path(folder or ".") / name
        with backup_file.sole_writer(target.parent):
            backup_file.check_new(target)
            async with contextlib.aclosing(store.snapshot()) as parts:
                manifest = await backup_file.write(target, parts, manifest, say)
            view = BackupView(**asdict(manifest), file=str(target.absolute()), removed=[])
            if keep is not None:
                view.removed = backup_file.prune(target.parent, manifest, keep)
    except Denied as error:
        raise Problem(Code.DENIED, "etcd", str(error), ROOT_ALONE) from None
    try:
        await _record(cluster, request, view)
    except (Problem, Unavailable, Refused) as error:
        view.trouble = str(error)
    return view


async def _manifest(cluster: Cluster, store: GivesSnapshots, request: Request) -> Manifest:
    versions = [member.version for member in await store.status() if not member.error]
    identity = await cluster.read(StorageIdentity, cluster.keys.storage())
    generation = await cluster.read(Generation, cluster.keys.generation())
    revision, counts = await store.count(*cluster.keys.prefixes(Kind))
    return Manifest(
        at=request.at,
        by=request.by,
        metastack=__version__,
        cluster_id=identity.record.cluster_id if identity is not None and identity.record is not None else "",
        root=cluster.keys.root,
        etcd=max(versions, key=_numbers, default=""),
        revision=revision,
        generation=generation.record.generation if generation is not None and generation.record else 0,
        record_version=await cluster.level(),
        counts={kind.value: count for kind, count in zip(Kind, counts, strict=True) if count},
    )


def _numbers(version: str) -> list[int]:
    return [int(part) for part in version.split("-")[0].split(".") if part.isdecimal()]


async def _record(cluster: Cluster, request: Request, view: BackupView) -> None:
    """Note the newest backup, for `doctor`. No guard: nothing is decided by this record."""
    done = request.later()
    record = Backup(
        at=done.at,
        by=request.by,
        host=socket.gethostname(),
        file=view.file,
        revision=view.revision,
        size_bytes=view.size_bytes,
        sha256=view.sha256,
    )

    async def look() -> Plan[None]:
        return Plan(
            guards=(),
            effects=(Put(cluster.keys.backup(), encode(record)),),
            what="cluster.backup",
            object="cluster",
            message=f"{view.file} on {record.host}, revision {view.revision}",
            answer=None,
        )

    await commit(cluster, done, look)
