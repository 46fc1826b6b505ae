"""The storage port: images, disks, the trash, and shutting a node out."""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from ..core.domains import Opener
from ..core.model import FenceReceipt, StoragePlace
from .ownership import UNMARKED, Found, Mark


class DiskFormat(StrEnum):
    RAW = "raw"
    QCOW2 = "qcow2"


class ImageInfo(Struct, frozen=True, kw_only=True):
    """What an import found and made."""

    size_bytes: int
    """Virtual size."""
    sha256: str
    """Of the source bytes."""
    format: DiskFormat


class DiskSource(Struct, frozen=True, kw_only=True):
    """Where a hypervisor finds a disk: the data that goes into the domain XML."""

    kind: str
    """``rbd`` or ``file``."""
    format: DiskFormat
    path: str = ""
    """file: absolute path. rbd: ``pool/image``."""
    monitors: tuple[str, ...] = ()
    """rbd: ``host:port`` each."""
    user: str = ""
    """rbd: cephx user, without ``client.``."""
    secret_uuid: str = ""
    """rbd: UUID of the libvirt secret that holds the user's key."""


class CephSecret(Struct, frozen=True, kw_only=True):
    """What the hypervisor must know to open RBD disks: a libvirt secret of type ceph."""

    uuid: str
    name: str
    key: bytes
    """Raw key bytes (base64-decoded); empty: the agent has it from a secret."""

    def __repr__(self) -> str:
        return f"CephSecret({self.uuid})"  # a key is in no log


class DiskInfo(Struct, frozen=True, kw_only=True):
    uuid: str
    size_bytes: int
    parent_image_uuid: str = ""
    ident: str = ""
    """The object's own id: another one after a copy."""
    mark: Found | None = None
    """What it bears; of another object, when it is a copy."""


class TrashedDisk(Struct, frozen=True, kw_only=True):
    """A deleted disk that can still be brought back."""

    uuid: str
    left_s: float
    """Until its retention ends, seconds; 0 when it is over."""
    ident: str = ""
    """The object's own id."""


class Stray(Struct, frozen=True, kw_only=True):
    """An object with a name such as ours that no record names. Nobody removes it but a person."""

    name: str
    """As the storage's own tools call it."""
    why: str
    """Whose it is, as far as its mark tells."""


class Clients(Struct, frozen=True, kw_only=True):
    """What is known of a node that shares its storage address: whom a fence of single clients must reach."""

    declared: tuple[str, ...]
    """Its agent's own clients, ``ADDRESS:PORT/NONCE``."""
    disks: tuple[str, ...] = ()
    """UUIDs of every disk that it owns: any client that has one open is shut out too."""
    guest_user: str = ""
    """User of its guests alone, which loses its rights; empty: it has none of its own."""
    spared: tuple[str, ...] = ()
    """Clients of other nodes' agents, which may be looking at such a disk."""


class StorageOwner(Struct, frozen=True, kw_only=True):
    """The mark that a pool or folder bears: whose it is."""

    id: str
    """Of the pool or folder itself; it stays when another cluster adopts it."""
    cluster_id: str
    """Of the cluster that it belongs to (``config/storage``)."""
    root: str
    """Where in its etcd that cluster's keys are."""
    at: str = ""
    by: str = ""


Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all (0 when unknown)."""


class Storage(Protocol):
    """Images and disks, named by UUID. Blocking work runs in the adapter's own threads."""

    kind: str
    """``ceph`` or ``file``."""
    guest_user: str
    """User that guests have for themselves; empty: the agent's own."""
    remote_fence: bool
    """True when :meth:`fence` shuts a node out; false when a takeover must rely on the disk's own lock."""

    async def open(self) -> None:
        """Connect and prove that it works; raises Denied, Unavailable, Fenced."""
        ...

    async def probe(self) -> None:
        """One small operation on the data, the same for every node: the storage serves this node right now.

        Raises Fenced, Denied, and Unavailable when it does not answer.
        """
        ...

    async def close(self) -> None:
        """Disconnect, after quiescing."""
        ...

    async def quiesce(self) -> None:
        """Return when no call is in flight in any thread, whatever happened to the await that started it."""
        ...

    def libvirt_secret(self) -> CephSecret | None:
        """What the hypervisor must be taught before it can open disks; None for files."""
        ...

    async def read_keys_again(self) -> bool:
        """Look whether the key files say something else than when they were read; true: it is used from now on.

        :meth:`libvirt_secret` and :meth:`own_client` are others then. Raises Denied or Unavailable when the
        storage does not take the new key: the one of before stays in use.
        """
        ...

    async def identity(self) -> StoragePlace:
        """Which storage this adapter is connected to, as the storage itself says; raises Unavailable."""
        ...

    async def owner(self) -> StorageOwner | None:
        """Whose mark it bears; None: nobody's. Raises Refused for a mark that cannot be read, Unavailable."""
        ...

    async def mark(self, owner: StorageOwner, before: StorageOwner | None) -> None:
        """Put a mark, durably, in the place of exactly that one; None: of none. Raises Exists otherwise."""
        ...

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
        """Copy a local file in as an image, <= 64 MB of memory; follows no backing or data file.

        ``fmt`` None: detect safely (the qcow2 magic, else raw). A failed import leaves nothing behind.
        The mark is written before the first byte.
        Raises InvalidImage, NoSpace, Exists.
        """
        ...

    async def delete_image(self, uuid: str, mark: Mark = UNMARKED, *, unmarked: bool = True) -> None:
        """Remove an image, or the rest of a failed import. InUse while disks depend on it; absent is fine.

        NotOurs when it does not bear that mark; ``unmarked``: none at all will do, for a record names it.
        """
        ...

    async def images(self) -> list[str]:
        """UUIDs of every image, whole or half imported."""
        ...

    # --- disks
    async def create_disk(self, uuid: str, image_uuid: str, size_bytes: int, mark: Mark = UNMARKED) -> None:
        """A copy-on-write clone of the image, grown to size, and marked.

        Idempotent: an existing disk is left as it is. NotOurs when that one is somebody else's.
        """
        ...

    async def adopt_disk(self, uuid: str, size_bytes: int, mark: Mark = UNMARKED) -> None:
        """See that a disk which was made is there, and give it its mark and its size where it lacks them.

        Raises MissingDisk, and NotOurs when it is somebody else's. Makes nothing.
        """
        ...

    async def delete_disk(
        self, uuid: str, retention_s: int, mark: Mark = UNMARKED, *, unmarked: bool = True
    ) -> None:
        """Move a disk to the trash. InUse when a live writer has it open; absent is fine.

        NotOurs when it does not bear that mark; ``unmarked``: none at all will do, for a record names it.
        """
        ...

    async def purge_disk(self, uuid: str, ident: str, mark: Mark = UNMARKED, *, early: bool = False) -> bool:
        """Remove one disk from the trash for good; False: that object is not there.

        InUse, NotOurs; Denied before its retention ends, unless ``early``.
        """
        ...

    async def restore_disk(self, uuid: str, ident: str, mark: Mark = UNMARKED) -> bool:
        """Take one disk out of the trash, under its name; False: that object is not there. Exists, NotOurs."""
        ...

    async def trash(self) -> list[TrashedDisk]:
        """Disks in the trash, whoever put them there."""
        ...

    async def missing(self, uuid: str) -> str:
        """What to say of a disk that is not there, and how to bring it back when it lies in the trash."""
        ...

    async def strays(self, known: frozenset[str]) -> list[Stray]:
        """Objects with names such as ours, of UUIDs that are not known."""
        ...

    async def trashed(self, image_uuid: str) -> list[TrashedDisk]:
        """Disks in the trash that depend on this image."""
        ...

    async def disk(self, uuid: str) -> DiskInfo | None:
        """Facts about a disk; None when it was not found, which only :meth:`disks` proves."""
        ...

    async def disks(self) -> list[str]:
        """UUIDs of every disk that is not in the trash."""
        ...

    async def disk_source(self, uuid: str) -> DiskSource:
        """How a hypervisor opens the disk. Pure: does not look whether it exists."""
        ...

    async def locked(self, uuid: str) -> bool:
        """True when a live writer holds the disk open (file backend: QEMU's image lock; ceph: a watcher)."""
        ...

    async def openers(self, uuid: str) -> tuple[Opener, ...]:
        """Every client but this node's own that has the disk open for writing or holds a lock on it, in a
        stable order.

        Those that are shut out too, by what the storage itself has confirmed. Asking leaves no trace: the asker
        is no watcher. Empty for a disk that does not exist. Raises Unavailable, Denied, Fenced.
        """
        ...

    # --- fencing
    async def evict(self, uuid: str, client: str, *, dead: bool) -> None:
        """Shut this one client out, confirmed, and then break its locks on the disk.

        ``dead``: its process is known to be gone, so the entry need not last. Raises Refused where single
        clients cannot be shut out (files), Unavailable or Denied when it could not be confirmed.
        """
        ...

    async def fence(self, addresses: tuple[str, ...], by: str, reason: str) -> FenceReceipt:
        """Shut every client of these addresses out, wait until the cluster's map carries it, verify.

        Raises Unavailable or Denied when that could not be confirmed: then there is no takeover.
        """
        ...

    async def fence_clients(self, clients: Clients, by: str, reason: str) -> FenceReceipt:
        """Shut single clients of a node out, and take its guests' user the rights, if it has one; verify.

        Weaker than :meth:`fence`: a client that nobody knows yet is refused only by the lost rights.
        Raises Unavailable or Denied when it could not be confirmed: then there is no takeover.
        """
        ...

    async def break_locks(self, disk_uuid: str, addresses: tuple[str, ...]) -> None:
        """Break locks on a disk held by clients of fenced addresses, so that the next boot need not wait."""
        ...

    async def blocked(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Which of these are shut out right now: addresses, single clients (``ADDRESS:PORT/NONCE``), or this
        node's own guests' user as ``client.NAME``."""
        ...

    async def unfence(self, names: tuple[str, ...]) -> None:
        """Let these (this node's own) in again; confirmed when it returns. New handles come after it, also if
        it fails.

        A single client stays out when this user may not lift it: it is dead, and the new handle is another.
        """
        ...

    async def rights(self) -> tuple[str, ...]:
        """What this user may not do and should, or may and should not; empty when all is well."""
        ...

    async def unsettled(self) -> str:
        """Why a command that a dead client sent some minutes ago may still be pending; empty: it cannot."""
        ...

    async def own_address(self) -> str:
        """The address under which the storage sees a client that begins here now (empty: it does not tell).

        An older one keeps its own: see :meth:`own_client`. Raises Unavailable.
        """
        ...

    async def own_client(self) -> str:
        """This very client, ``ADDRESS:PORT/NONCE``: another one after every new handle. Empty: it has none."""
        ...
