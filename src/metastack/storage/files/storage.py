"""The Storage port on one shared folder: raw images, qcow2 overlays, QEMU's image lock.

Owns: the adapter's threads and which calls they run. Refuses: claiming a fence that it does not have.
Rule: nothing here shuts a node out; a takeover must find the disk unlocked (:meth:`FileStorage.locked`),
and QEMU itself refuses a second writer.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from metastack.core.model import FenceReceipt, StoragePlace
from metastack.ports import (
    UNMARKED,
    Clients,
    DiskFormat,
    DiskInfo,
    DiskSource,
    ImageInfo,
    Mark,
    Opener,
    Progress,
    Refused,
    StorageOwner,
    Stray,
    TrashedDisk,
    Unavailable,
)
from metastack.settings import StorageSettings

from ..image_source import ImportCancelled, check_uuid
from ..threads import StorageThreads
from . import images as file_images
from . import owner as file_owner
from . import trash as file_trash

T = TypeVar("T")


class FileStorage:
    """See :class:`metastack.ports.Storage`."""

    kind = "file"
    guest_user = ""
    remote_fence = False

    def __init__(self, settings: StorageSettings) -> None:
        self._folder = file_images.Folder(settings.directory, settings.timeout_s)
        self._workers = StorageThreads("storage", 4)
        self._probes = StorageThreads("storage-probe", 1)
        self._deadline_s = 4 * settings.timeout_s + 5

    # --- life

    async def open(self) -> None:
        await self._on("opening the storage folder", self._folder.prepare)

    async def probe(self) -> None:
        # In a thread of its own: a shared folder that hangs holds up every other one.
        await self._probes.run("probing the storage folder", self._folder.probe, self._deadline_s)

    async def close(self) -> None:
        await self.quiesce()
        self._workers.shutdown()
        self._probes.shutdown()

    async def quiesce(self) -> None:
        await self._workers.quiesce()

    def libvirt_secret(self) -> None:
        return None

    async def read_keys_again(self) -> bool:
        return False

    async def identity(self) -> StoragePlace:
        owner = await self.owner()
        return StoragePlace(kind=self.kind, fsid=owner.id if owner is not None else "")

    async def owner(self) -> StorageOwner | None:
        return await self._on("reading whose the folder is", lambda: file_owner.read(self._folder))

    async def mark(self, owner: StorageOwner, before: StorageOwner | None) -> None:
        await self._on("marking the folder", lambda: file_owner.write(self._folder, owner, before))

    # --- images

    async def import_image(
        self,
        uuid: str,
        path: str,
        fmt: DiskFormat | None,
        progress: Progress | None = None,
        size_limit: int = 0,
        mark: Mark = UNMARKED,
    ) -> ImageInfo:
        check_uuid(uuid)
        folder, stop = self._folder, threading.Event()
        report = progress or (lambda _done, _total: None)
        try:
            return await self._workers.run(
                f"importing {path}",
                lambda: file_images.import_image(folder, uuid, path, fmt, report, size_limit, stop, mark),
                None,
            )
        except ImportCancelled:
            raise Unavailable(f"the import of {path} was cancelled") from None
        finally:
            stop.set()  # a cancelled await ends its thread at the next chunk, which cleans up

    async def delete_image(self, uuid: str, mark: Mark = UNMARKED, *, unmarked: bool = True) -> None:
        check_uuid(uuid)
        folder = self._folder
        what = f"deleting image {uuid}"
        await self._on(what, lambda: file_images.delete_image(folder, uuid, mark, unmarked))

    async def images(self) -> list[str]:
        return await self._on("listing images", lambda: file_images.images(self._folder))

    # --- disks

    async def create_disk(self, uuid: str, image_uuid: str, size_bytes: int, mark: Mark = UNMARKED) -> None:
        check_uuid(uuid)
        check_uuid(image_uuid)
        await self._on(
            f"creating disk {uuid}",
            lambda: file_images.create_disk(self._folder, uuid, image_uuid, size_bytes, mark),
        )

    async def adopt_disk(self, uuid: str, size_bytes: int, mark: Mark = UNMARKED) -> None:
        check_uuid(uuid)
        what = f"looking at disk {uuid}"
        await self._on(what, lambda: file_images.adopt_disk(self._folder, uuid, size_bytes, mark))

    async def delete_disk(
        self, uuid: str, retention_s: int, mark: Mark = UNMARKED, *, unmarked: bool = True
    ) -> None:
        check_uuid(uuid)
        folder = self._folder
        what = f"deleting disk {uuid}"
        await self._on(what, lambda: file_images.delete_disk(folder, uuid, retention_s, mark, unmarked))

    async def purge_disk(self, uuid: str, ident: str, mark: Mark = UNMARKED, *, early: bool = False) -> bool:
        check_uuid(uuid)
        what = f"removing deleted disk {uuid}"
        return await self._on(what, lambda: file_trash.purge(self._folder, uuid, ident, mark, early))

    async def restore_disk(self, uuid: str, ident: str, mark: Mark = UNMARKED) -> bool:
        check_uuid(uuid)
        what = f"taking disk {uuid} out of the trash"
        return await self._on(what, lambda: file_trash.restore(self._folder, uuid, ident, mark))

    async def trash(self) -> list[TrashedDisk]:
        return await self._on("listing the trash", lambda: file_trash.trash(self._folder))

    async def trashed(self, image_uuid: str) -> list[TrashedDisk]:
        check_uuid(image_uuid)
        what = f"looking what needs image {image_uuid}"
        return await self._on(what, lambda: file_trash.trashed(self._folder, image_uuid))

    async def missing(self, uuid: str) -> str:
        check_uuid(uuid)
        return await self._on("looking for a disk", lambda: file_trash.missing(self._folder, uuid))

    async def strays(self, known: frozenset[str]) -> list[Stray]:
        return await self._on("looking for strays", lambda: file_trash.strays(self._folder, known))

    async def disk(self, uuid: str) -> DiskInfo | None:
        check_uuid(uuid)
        return await self._on(f"reading disk {uuid}", lambda: file_images.disk(self._folder, uuid))

    async def disks(self) -> list[str]:
        return await self._on("listing disks", lambda: file_images.disks(self._folder))

    async def disk_source(self, uuid: str) -> DiskSource:
        path = str(self._folder.disk(check_uuid(uuid)))
        return DiskSource(kind="file", format=DiskFormat.QCOW2, path=path)

    async def locked(self, uuid: str) -> bool:
        check_uuid(uuid)
        return await self._on(f"looking at the lock of {uuid}", lambda: file_images.locked(self._folder, uuid))

    async def openers(self, uuid: str) -> tuple[Opener, ...]:
        check_uuid(uuid)
        return await self._on(f"looking who has {uuid}", lambda: file_images.openers(self._folder, uuid))

    # --- fencing: there is none

    async def evict(self, uuid: str, client: str, *, dead: bool) -> None:
        """Only the end of a process gives its lock back."""
        raise Refused(f"{client} cannot be blocked: only the end of its process releases the lock")

    async def fence(self, addresses: tuple[str, ...], by: str, reason: str) -> FenceReceipt:
        """A receipt that says that nothing was blocked: QEMU's image lock guards each disk."""
        place = await self.identity()
        return FenceReceipt(
            at=datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            by=by,
            method="image-lock",
            verified="nothing is blocked remotely: QEMU's image lock refuses a second writer",
            reason=reason,
            storage=place,
        )

    async def fence_clients(self, clients: Clients, by: str, reason: str) -> FenceReceipt:
        """As :meth:`fence`."""
        return await self.fence((), by, reason)

    async def break_locks(self, disk_uuid: str, addresses: tuple[str, ...]) -> None:
        """The kernel drops a lock with its process; there is nothing to break."""

    async def blocked(self, names: tuple[str, ...]) -> tuple[str, ...]:
        return ()

    async def unfence(self, names: tuple[str, ...]) -> None:
        """Nothing was blocked."""

    async def unsettled(self) -> str:
        return ""

    async def rights(self) -> tuple[str, ...]:
        return ()

    async def own_address(self) -> str:
        return ""

    async def own_client(self) -> str:
        return ""

    # --- inside

    async def _on(self, what: str, call: Callable[[], T]) -> T:
        def mapped() -> T:
            with file_images.mapped(what):
                return call()

        return await self._workers.run(what, mapped, self._deadline_s)
