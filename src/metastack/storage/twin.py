"""The in-memory twin of the Storage port: a pool that knows who wrote, and who is shut out.

Owns: enough of RBD's manners for tests and the simulator: images, clones, trash, a blocklist by address.
Refuses: threads and clocks but ``asyncio.sleep`` and the loop's time.
Rule: a call is a thread and a request. The thread belongs to the process that called (a stopped process sends
nothing); the request, once sent, is nobody's, and takes effect whatever became of the await or the process.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from contextvars import Context
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from msgspec.structs import replace

from metastack.core.model import FenceReceipt, StoragePlace
from metastack.ports import (
    UNMARKED,
    CephSecret,
    Clients,
    Denied,
    DiskFormat,
    DiskInfo,
    DiskSource,
    Exists,
    Fenced,
    ImageInfo,
    InUse,
    InvalidImage,
    Mark,
    MissingDisk,
    NotFound,
    Opener,
    Progress,
    Refused,
    StorageOwner,
    Stray,
    TrashedDisk,
    Unavailable,
    UnknownOutcome,
)
from metastack.ports.ownership import Found, refuse_to_remove, refuse_to_use, told

T = TypeVar("T")

PLACE = StoragePlace(kind="memory", fsid="memory", pool="vms", pool_id=1)
USER = "client."
"""Before a name that is a user's."""


@dataclass
class MemoryPool:
    """What all clients share: the cluster."""

    place: StoragePlace = PLACE
    """What every client says that it is connected to."""
    owner: StorageOwner | None = None
    """Whose mark it bears."""
    images: dict[str, int] = field(default_factory=dict)
    """Image UUID to size."""
    disks: dict[str, DiskInfo] = field(default_factory=dict)
    trash: dict[str, tuple[DiskInfo, float]] = field(default_factory=dict)
    """Disk UUID to facts and the loop time at which it may go."""
    image_marks: dict[str, Found] = field(default_factory=dict)
    """Image UUID to the mark that it bears. (An image's id is its UUID here.)"""
    stuck: dict[str, str] = field(default_factory=dict)
    """UUIDs of objects that cannot be removed, each with why: a snapshot that was made by hand."""
    made: int = 0
    """Disks so far: each has an id of its own."""
    purged: list[str] = field(default_factory=list)
    """Disks that went for good."""
    blocked: set[str] = field(default_factory=set)
    """Addresses, and single clients."""
    no_rights: set[str] = field(default_factory=set)
    """Users of guests that lost their rights."""
    clients: int = 0
    """Clients so far: each has a number of its own."""
    openers: Callable[[str], set[str]] = lambda _path: set()
    """Clients that have a disk open."""
    locks: dict[str, str] = field(default_factory=dict)
    """Disk path to the host that has it open; shared with the in-memory hypervisors."""
    holders: Callable[[str], tuple[Opener, ...]] | None = None
    """The clients that have a disk open; None: those in ``locks``."""
    broken: set[str] = field(default_factory=set)
    """Clients whose locks were broken."""
    osd_epoch: int = 1
    down: bool = False
    cut: dict[str, asyncio.Event] = field(default_factory=dict)
    """Addresses that cannot reach the pool, each with what is set when it can again."""
    fail: Callable[[str, str], Exception | None] = lambda _what, _address: None
    """Fault injection: asked with the call's name and the client's address when it takes effect."""
    removed: Callable[[str], None] = lambda _uuid: None
    """Told of every disk that goes to the trash, and of each that goes for good."""
    skew_s: Callable[[str], float] = lambda _address: 0.0
    """How far the clock of the client at an address is off, by which it judges retentions, as librbd does."""
    created: Callable[[str], None] = lambda _uuid: None
    """Told of every disk that is made."""
    delay_s: Callable[[str], float] = lambda _what: 0.0
    """How long a request takes besides the client's own ``call_s``, seconds."""

    def partition(self, address: str) -> None:
        """Nothing passes between this address and the pool until :meth:`heal`."""
        self.cut.setdefault(address, asyncio.Event())

    def heal(self, address: str) -> None:
        found = self.cut.pop(address, None)
        if found is not None:
            found.set()

    def new_client(self, address: str) -> str:
        """The name of a client that begins now."""
        self.clients += 1
        return f"{address}:0/{self.clients}"

    def refuses(self, client: str) -> bool:
        """Whether what this client sends to a disk is refused."""
        return client in self.blocked or client.rpartition(":")[0] in self.blocked

    def is_open(self, path: str) -> bool:
        """A live writer has the disk open."""
        return path in self.locks

    def held(self, path: str) -> tuple[Opener, ...]:
        """Every client that has a disk open or its lock."""
        if self.holders is not None:
            return self.holders(path)
        holder = self.locks.get(path)
        return () if holder is None else (Opener(client=f"host {holder}", locking=True),)

    def new_disk(self, uuid: str, size_bytes: int, image_uuid: str) -> DiskInfo:
        """A clone, with the text of its image's mark, as librbd makes it."""
        self.made += 1
        self.created(uuid)
        self.disks[uuid] = DiskInfo(
            uuid=uuid,
            size_bytes=size_bytes,
            parent_image_uuid=image_uuid,
            ident=f"id{self.made}",
            mark=self.image_marks.get(image_uuid),
        )
        return self.disks[uuid]

    def trash_by_hand(self, uuid: str, retention_s: float = 0.0) -> None:
        """Somebody else moves a disk to the trash."""
        self.trash[uuid] = (self.disks.pop(uuid), asyncio.get_running_loop().time() + retention_s)


class MemoryStorage:
    """One client of a pool, at an address."""

    kind = "memory"

    def __init__(
        self,
        pool: MemoryPool,
        address: str = "",
        *,
        link: str = "",
        guest_user: str = "",
        remote_fence: bool = True,
        call_s: float = 0.0,
        timeout_s: float | None = None,
    ) -> None:
        self.remote_fence, self.guest_user = remote_fence, guest_user
        self._pool, self._address, self._call_s = pool, address, call_s
        self._link = link or address
        """The machine that it is on, when others share its address."""
        self._client = pool.new_client(address) if address else ""
        self.new_address = ""
        """Where clients of this machine are seen from now on, when that is not ``address`` any more."""
        self.keyring: CephSecret | None = None
        """What the key file says by now."""
        self.secret: CephSecret | None = None
        """What it said when it was read."""
        self._timeout_s = timeout_s
        """Patience with one call; None: endless, as long as nothing is cut off."""
        self._calls: dict[asyncio.Task[object], None] = {}
        self._abandoned = False

    def moves(self, address: str) -> None:
        """The machine gets another address. This client keeps its own; the next one has the new."""
        self.new_address = self._link = address

    def abandon(self) -> None:
        """The process died: what is stuck on the way never arrives, what is through takes effect."""
        self._abandoned = True

    async def _call(self, what: str, effect: Callable[[MemoryPool], T], *, needs_io: bool = True) -> T:
        """One call; a client that is shut out still reaches the monitors, not the disks."""
        call = asyncio.get_running_loop().create_task(self._thread(what, effect, needs_io))
        self._calls[call] = None
        call.add_done_callback(self._returned)
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.shield(call)
        except TimeoutError:
            raise UnknownOutcome(f"{what}: no answer within {self._timeout_s} s; it may still happen") from None

    async def _thread(self, what: str, effect: Callable[[MemoryPool], T], needs_io: bool) -> T:
        await asyncio.sleep(self._call_s)
        request = asyncio.get_running_loop().create_task(
            self._request(what, effect, needs_io), context=Context()
        )
        request.add_done_callback(_seen)
        return await request

    async def _request(self, what: str, effect: Callable[[MemoryPool], T], needs_io: bool) -> T:
        pool, address, client = self._pool, self._link, self._client
        await asyncio.sleep(pool.delay_s(what))
        while address in pool.cut:
            await pool.cut[address].wait()
            if self._abandoned:
                raise Unavailable(f"{what}: its client died")
        if pool.down:
            raise Unavailable("the storage does not answer")
        if needs_io and pool.refuses(client):
            raise Fenced(f"{self._address} is blocked")
        failure = pool.fail(what, address)
        if failure is not None:
            raise failure
        return effect(pool)

    def _returned(self, call: asyncio.Task[object]) -> None:
        self._calls.pop(call, None)
        _seen(call)

    async def open(self) -> None:
        await self._call("open", lambda pool: None, needs_io=False)

    async def probe(self) -> None:
        await self._call("probe", lambda pool: None)

    async def close(self) -> None:
        await self.quiesce()

    async def quiesce(self) -> None:
        while self._calls:
            await asyncio.wait(list(self._calls))

    def libvirt_secret(self) -> CephSecret | None:
        return self.secret

    async def read_keys_again(self) -> bool:
        before, self.secret = self.secret, self.keyring
        return before != self.secret

    async def identity(self) -> StoragePlace:
        return self._place(self._pool)

    def _place(self, pool: MemoryPool) -> StoragePlace:
        if self.remote_fence:
            return pool.place
        return StoragePlace(kind="file", fsid=pool.owner.id if pool.owner is not None else "")

    async def owner(self) -> StorageOwner | None:
        """Asked often and by everybody: no time passes, so that it changes nobody's schedule."""
        pool = self._pool
        if pool.down or self._link in pool.cut:
            raise Unavailable("the storage does not answer")
        if pool.refuses(self._client):
            raise Fenced(f"{self._address} is blocked")
        return pool.owner

    async def mark(self, owner: StorageOwner, before: StorageOwner | None) -> None:
        def put(pool: MemoryPool) -> None:
            if pool.owner != before:
                raise Exists("the mark changed during the check: try again")
            pool.owner = owner

        await self._call("mark", put)

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
        def store(pool: MemoryPool) -> ImageInfo:
            if uuid in pool.images:
                raise Exists(f"image {uuid} exists")
            data = Path(path).read_bytes()
            if len(data) % 512 or not data:
                raise InvalidImage(f"{path}: its size is not a multiple of 512")
            pool.images[uuid] = len(data)
            if mark.cluster:
                pool.image_marks[uuid] = _found(mark, uuid)
            if progress is not None:
                progress(len(data), len(data))
            return ImageInfo(
                size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest(), format=fmt or DiskFormat.RAW
            )

        return await self._call("import_image", store)

    async def delete_image(self, uuid: str, mark: Mark = UNMARKED, *, unmarked: bool = True) -> None:
        def delete(pool: MemoryPool) -> None:
            if uuid in pool.images:
                refuse_to_remove(f"image-{uuid}", pool.image_marks.get(uuid), uuid, mark, unmarked)
            if uuid in pool.stuck:
                raise InUse(f"image-{uuid}: {pool.stuck[uuid]}")
            users = [*pool.disks.values(), *(info for info, _ in pool.trash.values())]
            if any(info.parent_image_uuid == uuid for info in users):
                raise InUse(f"disks depend on image {uuid}")
            pool.images.pop(uuid, None)
            pool.image_marks.pop(uuid, None)

        await self._call("delete_image", delete)

    async def images(self) -> list[str]:
        return await self._call("images", lambda pool: sorted(pool.images))

    # --- disks

    async def create_disk(self, uuid: str, image_uuid: str, size_bytes: int, mark: Mark = UNMARKED) -> None:
        def create(pool: MemoryPool) -> None:
            if uuid in pool.disks:
                _complete(pool, uuid, mark)
                return
            if image_uuid not in pool.images:
                raise NotFound(f"image {image_uuid} does not exist")
            if size_bytes < pool.images[image_uuid]:
                raise InvalidImage(f"disk {uuid} would be smaller than its image")
            pool.new_disk(uuid, size_bytes, image_uuid)
            _complete(pool, uuid, mark)

        await self._call("create_disk", create)

    async def adopt_disk(self, uuid: str, size_bytes: int, mark: Mark = UNMARKED) -> None:
        def adopt(pool: MemoryPool) -> None:
            if uuid not in pool.disks:
                raise MissingDisk(f"its disk vm-{uuid} is missing")
            _complete(pool, uuid, mark)

        await self._call("adopt_disk", adopt)

    async def delete_disk(
        self, uuid: str, retention_s: int, mark: Mark = UNMARKED, *, unmarked: bool = True
    ) -> None:
        def delete(pool: MemoryPool) -> None:
            info = pool.disks.get(uuid)
            if info is not None:
                refuse_to_remove(f"vm-{uuid}", info.mark, info.ident, mark, unmarked)
            if pool.is_open(f"/memory/{uuid}"):
                raise InUse(f"disk {uuid} is open")
            if info is not None:
                if mark.cluster and (info.mark is None or info.mark.ident != info.ident):
                    info = replace(info, mark=_found(mark, info.ident))
                del pool.disks[uuid]
                pool.removed(uuid)
                pool.trash[uuid] = (info, self._now_s(pool) + retention_s)

        await self._call("delete_disk", delete)

    async def purge_disk(self, uuid: str, ident: str, mark: Mark = UNMARKED, *, early: bool = False) -> bool:
        def purge(pool: MemoryPool) -> bool:
            info, at_s = pool.trash.get(uuid, (None, 0.0))
            if info is None or info.ident != ident:
                return False
            refuse_to_remove(f"vm-{uuid}", info.mark, ident, mark, unmarked=False)
            if not early and at_s > self._now_s(pool):
                raise Denied(f"vm-{uuid}: its retention has not ended")
            if uuid in pool.stuck:
                raise InUse(f"vm-{uuid}: {pool.stuck[uuid]}")
            del pool.trash[uuid]
            pool.purged.append(uuid)
            pool.removed(uuid)
            return True

        return await self._call("purge_disk", purge)

    async def restore_disk(self, uuid: str, ident: str, mark: Mark = UNMARKED) -> bool:
        def restore(pool: MemoryPool) -> bool:
            info, _ = pool.trash.get(uuid, (None, 0.0))
            if info is None or info.ident != ident:
                return False
            refuse_to_remove(f"vm-{uuid}", info.mark, ident, mark, unmarked=True)
            if uuid in pool.disks:
                raise Exists(f"vm-{uuid} exists")
            pool.disks[uuid] = pool.trash.pop(uuid)[0]
            return True

        return await self._call("restore_disk", restore)

    async def trash(self) -> list[TrashedDisk]:
        def look(pool: MemoryPool) -> list[TrashedDisk]:
            now_s = asyncio.get_running_loop().time()
            return [
                TrashedDisk(uuid=uuid, left_s=max(0.0, at_s - now_s), ident=info.ident)
                for uuid, (info, at_s) in sorted(pool.trash.items())
            ]

        return await self._call("trash", look)

    def _now_s(self, pool: MemoryPool) -> float:
        return asyncio.get_running_loop().time() + pool.skew_s(self._address)

    async def missing(self, uuid: str) -> str:
        lies = uuid in {disk.uuid for disk in await self.trash()}
        return f"its disk vm-{uuid} is missing" + (": it lies in the trash" if lies else "")

    async def strays(self, known: frozenset[str]) -> list[Stray]:
        def look(pool: MemoryPool) -> list[Stray]:
            marks: list[tuple[str, str, Found | None, str]] = [
                *((f"image-{uuid}", uuid, pool.image_marks.get(uuid), uuid) for uuid in pool.images),
                *((f"vm-{uuid}", uuid, info.mark, info.ident) for uuid, info in pool.disks.items()),
                *((f"vm-{uuid} (trash)", uuid, i.mark, i.ident) for uuid, (i, _) in pool.trash.items()),
            ]
            return [
                Stray(name=name, why="it bears no mark" if mark is None else told(mark))
                for name, uuid, mark, _ in sorted(marks, key=lambda one: one[0])
                if uuid not in known
            ]

        return await self._call("strays", look)

    async def trashed(self, image_uuid: str) -> list[TrashedDisk]:
        def look(pool: MemoryPool) -> list[TrashedDisk]:
            now_s = asyncio.get_running_loop().time()
            return [
                TrashedDisk(uuid=uuid, left_s=max(0.0, at_s - now_s), ident=info.ident)
                for uuid, (info, at_s) in sorted(pool.trash.items())
                if info.parent_image_uuid == image_uuid
            ]

        return await self._call("trashed", look)

    async def disk(self, uuid: str) -> DiskInfo | None:
        return await self._call("disk", lambda pool: pool.disks.get(uuid))

    async def disks(self) -> list[str]:
        return await self._call("disks", lambda pool: sorted(pool.disks))

    async def disk_source(self, uuid: str) -> DiskSource:
        return DiskSource(kind="file", format=DiskFormat.RAW, path=f"/memory/{uuid}")

    async def locked(self, uuid: str) -> bool:
        return await self._call("locked", lambda pool: pool.is_open(f"/memory/{uuid}"), needs_io=False)

    async def openers(self, uuid: str) -> tuple[Opener, ...]:
        return await self._call("openers", lambda pool: pool.held(f"/memory/{uuid}"))

    # --- fencing

    async def evict(self, uuid: str, client: str, *, dead: bool) -> None:
        def block(pool: MemoryPool) -> None:
            if not self.remote_fence or "/" not in client:
                raise Refused(f"{client} cannot be blocked: only the end of its process releases the lock")
            pool.blocked.add(client)
            pool.broken.add(client)
            pool.osd_epoch += 1

        await self._call("evict", block)

    async def fence(self, addresses: tuple[str, ...], by: str, reason: str) -> FenceReceipt:
        def block(pool: MemoryPool) -> FenceReceipt:
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
                storage=self._place(pool),
            )

        return await self._call("fence", block, needs_io=False)

    async def fence_clients(self, clients: Clients, by: str, reason: str) -> FenceReceipt:
        def block(pool: MemoryPool) -> FenceReceipt:
            found = set(clients.declared)
            if clients.guest_user:
                pool.no_rights.add(clients.guest_user)
            for disk in clients.disks:
                found |= pool.openers(f"/memory/{disk}") - {*clients.spared, self._client}
            pool.blocked.update(found)
            pool.osd_epoch += 1
            return FenceReceipt(
                at="",
                by=by,
                method="memory-clients",
                clients=tuple(sorted(found)),
                users=(clients.guest_user,) if clients.guest_user else (),
                osd_epoch=pool.osd_epoch,
                verified="read back",
                reason=reason,
                storage=self._place(pool),
            )

        return await self._call("fence", block, needs_io=False)

    async def break_locks(self, disk_uuid: str, addresses: tuple[str, ...]) -> None:
        def release(pool: MemoryPool) -> None:
            if set(addresses) <= pool.blocked:
                pool.locks.pop(f"/memory/{disk_uuid}", None)
            held = pool.held(f"/memory/{disk_uuid}")
            pool.broken |= {one.client for one in held if one.shut_out and one.address in addresses}

        await self._call("break_locks", release)

    async def blocked(self, names: tuple[str, ...]) -> tuple[str, ...]:
        def look(pool: MemoryPool) -> tuple[str, ...]:
            out = pool.blocked | {USER + user for user in pool.no_rights}
            return tuple(name for name in names if name in out)

        return await self._call("blocked", look, needs_io=False)

    async def unfence(self, names: tuple[str, ...]) -> None:
        def release(pool: MemoryPool) -> None:
            # Single clients stay out: they are dead, and this user may not lift them.
            pool.blocked.difference_update(name for name in names if "/" not in name)
            pool.no_rights.difference_update(name.removeprefix(USER) for name in names)
            pool.osd_epoch += 1

        try:
            await self._call("unfence", release, needs_io=False)
        finally:
            if self._client:
                self._client = self._pool.new_client(self.new_address or self._address)

    async def rights(self) -> tuple[str, ...]:
        return ()

    async def unsettled(self) -> str:
        return ""

    async def own_address(self) -> str:
        return await self._call("own_address", lambda pool: self.new_address or self._address, needs_io=False)

    async def own_client(self) -> str:
        return self._client


def _found(mark: Mark, ident: str) -> Found:
    return Found(cluster=mark.cluster, kind=mark.kind, record=mark.record, ident=ident)


def _complete(pool: MemoryPool, uuid: str, mark: Mark) -> None:
    """Give a disk its mark, where it has it not."""
    info = pool.disks[uuid]
    if refuse_to_use(f"vm-{uuid}", info.mark, info.ident, mark):
        pool.disks[uuid] = replace(info, mark=_found(mark, info.ident))


def _seen(task: asyncio.Task[T]) -> None:
    """The waiting task may be gone: its error is no surprise."""
    if not task.cancelled():
        task.exception()
