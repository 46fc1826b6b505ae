"""The in-memory twin of the Storage port: a pool that knows who wrote, and who is shut out.

Owns: enough of RBD's manners for tests and the simulator: images, clones, trash, a blocklist by address.
Refuses: threads and clocks but ``asyncio.sleep`` and the loop's time.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from metastack.core.model import FenceReceipt
from metastack.ports import (
    CephSecret,
    DiskFormat,
    DiskInfo,
    DiskSource,
    Exists,
    Fenced,
    ImageInfo,
    InUse,
    InvalidImage,
    NotFound,
    Progress,
    Unavailable,
)


@dataclass
class MemoryPool:
    """What all clients share: the cluster."""

    images: dict[str, int] = field(default_factory=dict)
    """Image UUID to size."""
    disks: dict[str, DiskInfo] = field(default_factory=dict)
    trash: dict[str, tuple[DiskInfo, float]] = field(default_factory=dict)
    """Disk UUID to facts and the loop time at which it may go."""
    blocked: set[str] = field(default_factory=set)
    locks: dict[str, str] = field(default_factory=dict)
    """Disk path to the host that has it open; shared with the in-memory hypervisors."""
    osd_epoch: int = 1
    down: bool = False


class MemoryStorage:
    """One client of a pool, at an address."""

    kind = "memory"

    def __init__(
        self, pool: MemoryPool, address: str = "", *, remote_fence: bool = True, call_s: float = 0.0
    ) -> None:
        self.remote_fence = remote_fence
        self._pool, self._address, self._call_s = pool, address, call_s
        self._calls = 0
        self._quiet = asyncio.Event()
        self._quiet.set()

    async def _call(self, needs_io: bool = True) -> MemoryPool:
        """One request; a client that is shut out still reaches the monitors, not the disks."""
        self._calls += 1
        self._quiet.clear()
        try:
            await asyncio.sleep(self._call_s)
        finally:
            self._calls -= 1
            if not self._calls:
                self._quiet.set()
        if self._pool.down:
            raise Unavailable("the storage does not answer")
        if needs_io and self._address in self._pool.blocked:
            raise Fenced(f"{self._address} is shut out")
        return self._pool

    async def open(self) -> None:
        await self._call(needs_io=False)

    async def close(self) -> None:
        await self.quiesce()

    async def quiesce(self) -> None:
        await self._quiet.wait()

    def libvirt_secret(self) -> CephSecret | None:
        return None

    # --- images

    async def import_image(
        self,
        uuid: str,
        path: str,
        fmt: DiskFormat | None,
        progress: Progress | None = None,
        size_limit: int = 0,
    ) -> ImageInfo:
        pool = await self._call()
        if uuid in pool.images:
            raise Exists(f"image {uuid} exists")
        data = Path(path).read_bytes()
        if len(data) % 512 or not data:
            raise InvalidImage(f"{path}: its size is not a multiple of 512")
        pool.images[uuid] = len(data)
        if progress is not None:
            progress(len(data), len(data))
        return ImageInfo(
            size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), format=fmt or DiskFormat.RAW
        )

    async def delete_image(self, uuid: str) -> None:
        pool = await self._call()
        users = [*pool.disks.values(), *(info for info, _ in pool.trash.values())]
        if any(info.parent_image_uuid == uuid for info in users):
            raise InUse(f"disks depend on image {uuid}")
        pool.images.pop(uuid, None)

    async def images(self) -> list[str]:
        return sorted((await self._call()).images)

    # --- disks

    async def create_disk(self, uuid: str, image_uuid: str, size_bytes: int) -> None:
        pool = await self._call()
        if uuid in pool.disks:
            return
        if image_uuid not in pool.images:
            raise NotFound(f"image {image_uuid} does not exist")
        if size_bytes < pool.images[image_uuid]:
            raise InvalidImage(f"disk {uuid} would be smaller than its image")
        pool.disks[uuid] = DiskInfo(uuid=uuid, size_bytes=size_bytes, parent_image_uuid=image_uuid)

    async def delete_disk(self, uuid: str, retention_s: int) -> None:
        pool = await self._call()
        if await self.locked(uuid):
            raise InUse(f"disk {uuid} is open")
        info = pool.disks.pop(uuid, None)
        if info is not None:
            pool.trash[uuid] = (info, asyncio.get_running_loop().time() + retention_s)

    async def purge_trash(self) -> int:
        pool, now_s = await self._call(), asyncio.get_running_loop().time()
        due = [uuid for uuid, (_, at_s) in pool.trash.items() if at_s <= now_s]
        for uuid in due:
            del pool.trash[uuid]
        return len(due)

    async def disk(self, uuid: str) -> DiskInfo | None:
        return (await self._call()).disks.get(uuid)

    async def disks(self) -> list[str]:
        return sorted((await self._call()).disks)

    async def disk_source(self, uuid: str) -> DiskSource:
        return DiskSource(kind="file", format=DiskFormat.RAW, path=f"/memory/{uuid}")

    async def locked(self, uuid: str) -> bool:
        return f"/memory/{uuid}" in (await self._call(needs_io=False)).locks

    # --- fencing

    async def fence(self, addresses: tuple[str, ...], by: str, reason: str) -> FenceReceipt:
        pool = await self._call(needs_io=False)
        if self.remote_fence:
            pool.blocked.update(addresses)
            pool.osd_epoch += 1
        return FenceReceipt(
            at="",
            by=by,
            method="memory" if self.remote_fence else "image-lock",
            addresses=addresses if self.remote_fence else (),
            osd_epoch=pool.osd_epoch,
            verified="read back",
            reason=reason,
        )

    async def break_locks(self, disk_uuid: str, addresses: tuple[str, ...]) -> None:
        pool = await self._call()
        if set(addresses) <= pool.blocked:
            pool.locks.pop(f"/memory/{disk_uuid}", None)

    async def blocked(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        pool = await self._call(needs_io=False)
        return tuple(address for address in addresses if address in pool.blocked)

    async def unfence(self, addresses: tuple[str, ...]) -> None:
        pool = await self._call(needs_io=False)
        pool.blocked.difference_update(addresses)
        pool.osd_epoch += 1

    async def own_address(self) -> str:
        return self._address
