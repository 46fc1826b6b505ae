"""The Storage port on Ceph RBD.

Owns: the connection to Ceph, its threads, and which calls they run. Refuses: a ceph.conf, waits without
bounds, and calling a node fenced that the OSD map does not say is.
Rule: after an unblock, also one that failed, only Rados handles made after it are used.

Three pools of threads: images and disks in one; fencing in another, so that a stuck OSD never delays a fence;
and removals, which may take an hour, in the third, so that they never delay a session.
"""

from __future__ import annotations

import asyncio
import base64
import threading
import uuid as uuids
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

import structlog

from metastack.core.model import FenceReceipt, StoragePlace
from metastack.ports import (
    UNMARKED,
    CephSecret,
    Clients,
    Denied,
    DiskFormat,
    DiskInfo,
    DiskSource,
    Fenced,
    ImageInfo,
    Mark,
    NoSpace,
    Opener,
    Progress,
    StorageOwner,
    Stray,
    TrashedDisk,
    Unavailable,
)
from metastack.settings import StorageSettings

from ..image_source import ImportCancelled, check_uuid
from ..threads import StorageThreads
from . import (
    fence_addresses as ceph_fence,
)
from . import (
    fence_clients as ceph_clients,
)
from . import (
    images as ceph_images,
)
from . import (
    importing as ceph_import,
)
from . import (
    openers as ceph_openers,
)
from . import (
    owner as ceph_owner,
)
from . import (
    trash as ceph_trash,
)
from .handle import Handle, address_of_new_client, keys_of, plain

T = TypeVar("T")
log = structlog.get_logger()

_SECRETS = uuids.UUID("4d6f4a53-6f0e-5c0b-9f43-8a2d3b6f5e10")
"""Namespace of libvirt secret UUIDs; fixed for ever, else nodes would define a second secret."""
_REMOVAL_S = 3600.0
USER = "client."
"""Before a name that is a cephx user's, not an address."""


class CephStorage:
    """See :class:`metastack.ports.Storage`."""

    kind = "ceph"
    remote_fence = True

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self.guest_user = settings.guest_user
        self._handle: Handle | None = None
        self._renewing = asyncio.Lock()
        self._distrusted = False
        """An unblock was tried and no handle has been made since."""
        self._data = StorageThreads("storage", 4)
        self._control = StorageThreads("storage-control", 2)
        self._removals = StorageThreads("storage-removal", 2)
        self._probes = StorageThreads("storage-probe", 1)
        # Several bounded steps make one call: a few time-outs of Ceph's own fit in.
        self._deadline_s = 4 * settings.timeout_s + 5

    # --- life

    async def open(self) -> None:
        """Connect and read from the pool. On Fenced the connection stays: blocked() and unfence() work."""
        if self._handle is None:
            self._handle = await self._control.run(
                "connecting to Ceph", lambda: Handle(self._settings), self._deadline_s
            )
        await self._on(self._control, "probing the pool", Handle.probe)

    async def probe(self) -> None:
        # In threads of its own: stuck calls on disks, or on monitors, say nothing about this one.
        await self._on(self._probes, "probing the pool", Handle.probe, self._settings.timeout_s + 1)

    async def close(self) -> None:
        await self.quiesce()
        handle, self._handle = self._handle, None
        if handle is not None:
            await self._control.run("disconnecting from Ceph", handle.retire, self._deadline_s)
        self._data.shutdown()
        self._removals.shutdown()
        self._probes.shutdown()
        self._control.shutdown()

    async def quiesce(self) -> None:
        # Safety: not the removals. What they remove has no record or lies in the trash, so they are right in
        # any session; a node that waited for one (a large disk takes minutes) would be fenced meanwhile.
        await self._data.quiesce()
        await self._control.quiesce()

    def libvirt_secret(self) -> CephSecret:
        handle = self._opened()
        return CephSecret(
            uuid=self._secret_uuid(handle),
            name=f"metastack client.{self._guests} {handle.fsid}",
            key=base64.b64decode(handle.guest_key),
        )

    async def identity(self) -> StoragePlace:
        # Of the connection: it was asked once, and stays with the pool's id, whatever is renamed.
        return self._opened().place

    async def owner(self) -> StorageOwner | None:
        return await self._on(self._data, "reading whose the pool is", ceph_owner.read)

    async def mark(self, owner: StorageOwner, before: StorageOwner | None) -> None:
        await self._on(self._data, "marking the pool", lambda h: ceph_owner.write(h, owner, before))

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
        handle, stop = self._opened(), threading.Event()
        report = progress or (lambda _done, _total: None)

        def run() -> ImageInfo:
            with handle.use():
                return ceph_import.run(handle, uuid, path, fmt, report, size_limit, stop, mark)

        try:
            return await self._data.run(f"importing {path}", run, None)
        except ImportCancelled:
            raise Unavailable(f"the import of {path} was cancelled") from None
        finally:
            stop.set()  # a cancelled await ends its thread at the next chunk, which cleans up

    async def delete_image(self, uuid: str, mark: Mark = UNMARKED, *, unmarked: bool = True) -> None:
        check_uuid(uuid)

        def delete(handle: Handle) -> None:
            ceph_images.delete_image(handle, uuid, mark, unmarked)

        await self._on(self._removals, f"deleting image {uuid}", delete, _REMOVAL_S)

    async def images(self) -> list[str]:
        return await self._on(self._data, "listing images", ceph_images.images)

    # --- disks

    async def create_disk(self, uuid: str, image_uuid: str, size_bytes: int, mark: Mark = UNMARKED) -> None:
        check_uuid(uuid)
        check_uuid(image_uuid)

        def create(handle: Handle) -> None:
            try:
                ceph_images.create_disk(handle, uuid, image_uuid, size_bytes, mark)
            except Unavailable as error:
                if not isinstance(error, Fenced | NoSpace):
                    handle.refuse_when_full()
                raise

        await self._on(self._data, f"creating disk {uuid}", create)

    async def adopt_disk(self, uuid: str, size_bytes: int, mark: Mark = UNMARKED) -> None:
        check_uuid(uuid)
        what = f"looking at disk {uuid}"
        await self._on(self._data, what, lambda h: ceph_images.adopt_disk(h, uuid, size_bytes, mark))

    async def delete_disk(
        self, uuid: str, retention_s: int, mark: Mark = UNMARKED, *, unmarked: bool = True
    ) -> None:
        check_uuid(uuid)

        def delete(handle: Handle) -> None:
            ceph_images.delete_disk(handle, uuid, retention_s, mark, unmarked)

        await self._on(self._data, f"deleting disk {uuid}", delete)

    async def purge_disk(self, uuid: str, ident: str, mark: Mark = UNMARKED, *, early: bool = False) -> bool:
        check_uuid(uuid)

        def purge(handle: Handle) -> bool:
            return ceph_trash.purge(handle, uuid, ident, mark, early)

        return await self._on(self._removals, f"removing deleted disk {uuid}", purge, _REMOVAL_S)

    async def restore_disk(self, uuid: str, ident: str, mark: Mark = UNMARKED) -> bool:
        check_uuid(uuid)
        what = f"taking disk {uuid} out of the trash"
        return await self._on(self._data, what, lambda h: ceph_trash.restore(h, uuid, ident, mark))

    async def trash(self) -> list[TrashedDisk]:
        return await self._on(self._data, "listing the trash", ceph_trash.trash)

    async def trashed(self, image_uuid: str) -> list[TrashedDisk]:
        check_uuid(image_uuid)
        what = f"looking what needs image {image_uuid}"
        return await self._on(self._data, what, lambda h: ceph_trash.trashed(h, image_uuid))

    async def missing(self, uuid: str) -> str:
        pool, name = self._settings.pool, ceph_images.DISK + check_uuid(uuid)
        said = f"its disk {name} is missing in pool {pool}"
        lies = [disk for disk in await self.trash() if disk.uuid == uuid]
        if lies:
            said += f": it lies in the trash, `rbd trash restore --pool {pool} {lies[-1].ident}` brings it back"
        return said

    async def strays(self, known: frozenset[str]) -> list[Stray]:
        return await self._on(self._data, "looking for strays", lambda h: ceph_trash.strays(h, known))

    async def disk(self, uuid: str) -> DiskInfo | None:
        check_uuid(uuid)
        return await self._on(self._data, f"reading disk {uuid}", lambda h: ceph_images.disk(h, uuid))

    async def disks(self) -> list[str]:
        return await self._on(self._data, "listing disks", ceph_images.disks)

    async def disk_source(self, uuid: str) -> DiskSource:
        return DiskSource(
            kind="rbd",
            format=DiskFormat.RAW,
            path=f"{self._settings.pool}/{ceph_images.DISK}{check_uuid(uuid)}",
            monitors=self._settings.monitors,
            user=self._guests,
            secret_uuid=self._secret_uuid(self._opened()),
        )

    async def locked(self, uuid: str) -> bool:
        name = ceph_images.DISK + check_uuid(uuid)
        return bool(
            await self._on(self._data, f"looking who has {name}", lambda h: ceph_images.watchers(h, name))
        )

    async def openers(self, uuid: str) -> tuple[Opener, ...]:
        name = ceph_images.DISK + check_uuid(uuid)
        return await self._on(
            self._data, f"asking who has {name} open", lambda h: ceph_openers.openers(h, name)
        )

    # --- fencing

    async def evict(self, uuid: str, client: str, *, dead: bool) -> None:
        name = ceph_images.DISK + check_uuid(uuid)
        what = f"shutting {client} out of {name}"
        await self._on(self._control, what, lambda h: ceph_openers.evict(h, name, client, dead=dead))
        log.info("evicted", client=client, disk=uuid, dead=dead)

    async def fence(self, addresses: tuple[str, ...], by: str, reason: str) -> FenceReceipt:
        done = await self._on(self._control, "fencing", lambda h: ceph_fence.add(h, addresses))
        log.info("blocked", addresses=addresses, osd_epoch=done.osd_epoch, by=by, reason=reason)
        return FenceReceipt(
            at=_stamp(),
            by=by,
            method="ceph-blocklist",
            addresses=addresses,
            osd_epoch=done.osd_epoch,
            verified=done.verified,
            reason=reason,
            storage=self._opened().place,
        )

    async def fence_clients(self, clients: Clients, by: str, reason: str) -> FenceReceipt:
        what = "fencing single clients"
        done, blocked = await self._on(self._control, what, lambda h: ceph_clients.fence(h, clients))
        log.info("blocked", clients=blocked, osd_epoch=done.osd_epoch, by=by, reason=reason)
        return FenceReceipt(
            at=_stamp(),
            by=by,
            method="ceph-blocklist-clients",
            clients=blocked,
            users=(clients.guest_user,) if clients.guest_user else (),
            osd_epoch=done.osd_epoch,
            verified=done.verified,
            reason=reason,
            storage=self._opened().place,
        )

    async def break_locks(self, disk_uuid: str, addresses: tuple[str, ...]) -> None:
        check_uuid(disk_uuid)
        what = f"breaking locks of {disk_uuid}"
        await self._on(self._data, what, lambda h: ceph_images.break_locks(h, disk_uuid, addresses))

    async def blocked(self, names: tuple[str, ...]) -> tuple[str, ...]:
        def look(handle: Handle) -> tuple[str, ...]:
            listed = ceph_fence.entries(handle)
            return tuple(name for name in names if _is_out(handle, name, listed))

        return await self._on(self._control, "reading the blocklist", look)

    async def unfence(self, names: tuple[str, ...]) -> None:
        def lift(handle: Handle) -> None:
            ceph_clients.lift(handle, tuple(name for name in names if "/" in name))
            ceph_fence.remove(handle, tuple(n for n in names if "/" not in n and not n.startswith(USER)))
            for name in names:
                if name.startswith(USER):
                    ceph_clients.give_back(handle, name.removeprefix(USER), self._settings.pool)

        # Safety: before it is sent. One that fails, or is not answered, may be carried out all the same.
        self._distrusted = True
        handle = self._opened()
        await self._control.run("unblocking", lambda: _with(handle, lift), self._deadline_s)
        await self._on(self._control, "probing the pool", Handle.probe)
        log.info("unblocked", names=names)

    async def _renew(self) -> None:
        """Another handle. Safety: one that was refused may hold writes that it would send once it is let in."""
        async with self._renewing:
            if not self._distrusted:
                return
            await self._replace()

    async def _replace(self) -> None:
        """Another handle in the place of this one, which stays when that fails."""
        fresh = await self._control.run("reconnecting", lambda: Handle(self._settings), self._deadline_s)
        old, self._handle, self._distrusted = self._handle, fresh, False
        if old is not None:
            await self._control.run("closing the old connection", old.retire, self._deadline_s)

    async def read_keys_again(self) -> bool:
        async with self._renewing:
            handle = self._opened()
            now = await self._control.run(
                "reading the keyrings", lambda: keys_of(self._settings), self._deadline_s
            )
            if now == (handle.key, handle.guest_key):
                return False
            await self._replace()
        log.warning("keys_reloaded", user=self._settings.user, guest_user=self._settings.guest_user)
        return True

    async def _other_keys(self) -> None:
        """A call was refused: perhaps for a key that was replaced since it was read."""
        try:
            await self.read_keys_again()
        except (Denied, Unavailable) as error:
            log.info("keys_reload_failed", error=str(error))

    async def rights(self) -> tuple[str, ...]:
        return await self._on(self._control, "trying what this user may do", ceph_fence.rights)

    async def unsettled(self) -> str:
        return await self._on(self._control, "asking for the quorum", ceph_fence.unsettled)

    async def own_address(self) -> str:
        self._opened()
        return await self._control.run(
            "asking for this node's address", lambda: address_of_new_client(self._settings), self._deadline_s
        )

    async def own_client(self) -> str:
        if self._distrusted:
            await self._renew()
        return plain(self._opened().address)

    # --- inside

    def _opened(self) -> Handle:
        if self._handle is None:
            raise Unavailable("the Ceph storage is not open")
        return self._handle

    def _secret_uuid(self, handle: Handle) -> str:
        return str(uuids.uuid5(_SECRETS, f"{handle.fsid}:{self._guests}"))

    @property
    def _guests(self) -> str:
        return self._settings.guest_user or self._settings.user

    async def _on(
        self, workers: StorageThreads, what: str, call: Callable[[Handle], T], timeout_s: float | None = None
    ) -> T:
        if self._distrusted:
            await self._renew()
        handle, deadline_s = self._opened(), timeout_s or self._deadline_s
        try:
            return await workers.run(what, lambda: _with(handle, call), deadline_s)
        except Denied:
            if self._handle is handle:
                await self._other_keys()
            # Also when another call that was refused had it replaced: what was refused was not applied.
            if self._handle is handle:
                raise
        fresh = self._opened()
        return await workers.run(what, lambda: _with(fresh, call), deadline_s)


def _with(handle: Handle, call: Callable[[Handle], T]) -> T:
    with handle.use():
        return call(handle)


def _is_out(handle: Handle, name: str, listed: set[str]) -> bool:
    if name.startswith(USER):
        return not ceph_clients.has_rights(handle, name.removeprefix(USER))
    return plain(name) in listed if "/" in name else ceph_fence.entry(name) in listed


def _stamp() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
