"""The seams to the world: Store, Hypervisor, Storage, Network, and the error families.

Owns: what the rest of the program may ask of an adapter, in terms that every adapter can keep.
Refuses: anything that names etcd, libvirt or Ceph.
Rule: every method that blocks in a thread is counted; ``quiesce()`` returns only when no call is in flight,
because cancelling an await does not stop its thread.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from enum import StrEnum
from typing import Protocol

from msgspec import Struct

from .core.change import Batch, Change, Entry, Lease, Outcome, Snapshot
from .core.facts import Domain as Domain
from .core.facts import DomainState as DomainState
from .core.facts import EndReason as EndReason
from .core.model import FenceReceipt, Resources

# ---------------------------------------------------------------------------------------------------------
# Error families (DESIGN 8)


class Unavailable(Exception):
    """Something outside does not answer, or not now. Retry with backoff. Nothing was applied."""


class UnknownOutcome(Unavailable):
    """The request may or may not have been applied: look again before deciding anything."""


class Refused(Exception):
    """A guard failed, or the outside said no for a reason that stays: look again; not a bug."""


class Broken(Exception):
    """Our own bug, or a state that must not exist. Crash the session, loudly."""


# --- refinements, by what the caller does differently


class Compacted(Refused):
    """The watch's revision is gone: list again."""


class LeaseGone(Refused):
    """The lease does not exist any more: the session is over."""


class NoSpace(Unavailable):
    """The store, the pool or the disk is full; the message says which."""


class Denied(Refused):
    """Credentials do not allow this; the message says whose and what for."""


class NotFound(Refused):
    """The named object does not exist."""


class Exists(Refused):
    """The named object exists already."""


class InUse(Refused):
    """The disk is locked by a live writer, or the image has clones."""


class InvalidImage(Refused):
    """The image file is corrupt, truncated, of an unexpected format or refers to other files."""


class Fenced(Unavailable):
    """The storage refuses us: this node is on its blocklist."""


# ---------------------------------------------------------------------------------------------------------
# Store


class Store(Protocol):
    """etcd as the platform uses it. Every call has its own deadlines and raises the families above.

    The in-memory twin passes the same contract suite as the real one.
    """

    async def get(self, key: str) -> Entry | None:
        """One key, linearizable."""
        ...

    async def list(self, *prefixes: str) -> Snapshot:
        """Every entry under these prefixes at one revision, paged, in the order of the prefixes, then keys."""
        ...

    async def commit(self, change: Change) -> Outcome:
        """Run one transaction: Committed or Lost; raises UnknownOutcome when it cannot tell.

        Never retried here after it may have been applied. ``LeaseGone`` when the change's lease is gone.
        """
        ...

    def watch(self, prefix: str, after_revision: int) -> AsyncIterator[Batch]:
        """Events under a prefix with revision > ``after_revision``, for ever, each exactly once, in order.

        Reconnects by itself (resuming after the last delivered revision); raises ``Compacted`` when that
        revision is gone. Empty batches are progress notes. Closing the iterator closes the stream.
        """
        ...

    async def grant(self, ttl_s: int) -> Lease:
        """A new lease."""
        ...

    async def renew(self, lease: Lease) -> Lease:
        """Renew once; raises LeaseGone."""
        ...

    async def revoke(self, lease: Lease) -> None:
        """End a lease and delete its keys; a lease that is gone already is no error."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


# ---------------------------------------------------------------------------------------------------------
# Storage


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
    """Raw key bytes (base64-decoded)."""


class DiskInfo(Struct, frozen=True, kw_only=True):
    uuid: str
    size_bytes: int
    parent_image_uuid: str = ""


class TrashedDisk(Struct, frozen=True, kw_only=True):
    """A deleted disk that can still be brought back."""

    uuid: str
    left_s: float
    """Until its retention ends, seconds; 0 when it is over."""


Progress = Callable[[int, int], None]
"""Called with bytes done and bytes in all (0 when unknown)."""


class Storage(Protocol):
    """Images and disks, named by UUID. Blocking work runs in the adapter's own threads."""

    kind: str
    """``ceph`` or ``file``."""
    remote_fence: bool
    """True when :meth:`fence` shuts a node out; false when a takeover must rely on the disk's own lock."""

    async def open(self) -> None:
        """Connect and prove that it works; raises Denied, Unavailable, Fenced."""
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

    # --- images
    async def import_image(
        self,
        uuid: str,
        path: str,
        fmt: DiskFormat | None,
        progress: Progress | None = None,
        size_limit: int = 0,
    ) -> ImageInfo:
        """Copy a local file in as an image, <= 64 MB of memory; follows no backing or data file.

        ``fmt`` None: detect safely (the qcow2 magic, else raw). A failed import leaves nothing behind.
        Raises InvalidImage, NoSpace, Exists.
        """
        ...

    async def delete_image(self, uuid: str) -> None:
        """Remove an image, or the rest of a failed import. InUse while disks depend on it; absent is fine."""
        ...

    async def images(self) -> list[str]:
        """UUIDs of every image, whole or half imported."""
        ...

    # --- disks
    async def create_disk(self, uuid: str, image_uuid: str, size_bytes: int) -> None:
        """A copy-on-write clone of the image, grown to size. Idempotent: an existing disk is left as it is."""
        ...

    async def delete_disk(self, uuid: str, retention_s: int) -> None:
        """Move a disk to the trash. InUse when a live writer has it open; absent is fine."""
        ...

    async def purge_trash(self) -> int:
        """Remove what has outlived its retention; how many were removed."""
        ...

    async def trashed(self, image_uuid: str) -> list[TrashedDisk]:
        """Disks in the trash that depend on this image."""
        ...

    async def empty_trash(self, image_uuid: str) -> int:
        """Remove those disks now, whatever their retention; how many were removed."""
        ...

    async def disk(self, uuid: str) -> DiskInfo | None:
        """Facts about a disk, or None."""
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

    # --- fencing
    async def fence(self, addresses: tuple[str, ...], by: str, reason: str) -> FenceReceipt:
        """Shut every client of these addresses out, wait until the cluster's map carries it, verify.

        Raises Unavailable or Denied when that could not be confirmed: then there is no takeover.
        """
        ...

    async def break_locks(self, disk_uuid: str, addresses: tuple[str, ...]) -> None:
        """Break locks on a disk held by clients of fenced addresses, so that the next boot need not wait."""
        ...

    async def blocked(self, addresses: tuple[str, ...]) -> tuple[str, ...]:
        """Which of these addresses are shut out right now."""
        ...

    async def unfence(self, addresses: tuple[str, ...]) -> None:
        """Let these (my own) addresses in again; confirmed when it returns. New handles are made after it."""
        ...

    async def own_address(self) -> str:
        """The address under which the storage sees this process (empty: it does not tell)."""
        ...


# ---------------------------------------------------------------------------------------------------------
# Hypervisor


class DomainEvent(Struct, frozen=True, kw_only=True):
    """Something happened to a domain: look at it."""

    uuid: str
    what: str
    """``started``, ``stopped``, ``crashed``, ``suspended``, ``resumed``, ``io_error``, ``defined``,
    ``undefined``, ``shutdown``, ``rebooted`` (from inside; same domain), ``changed`` (anything else)."""


class NicSpec(Struct, frozen=True, kw_only=True):
    mac: str
    bridge: str


class DomainSpec(Struct, frozen=True, kw_only=True):
    """Everything that goes into a domain's XML. Built from validated records only."""

    uuid: str
    project: str
    name: str
    cpus: int
    memory_mib: int
    disk: DiskSource
    nics: tuple[NicSpec, ...] = ()
    session: int = 0
    epoch: int = 0
    run: int = 0
    volume_uuid: str = ""
    claim_node: str = ""


class HostFacts(Struct, frozen=True, kw_only=True):
    """What the machine is."""

    uuid: str
    capacity: Resources
    hypervisor: str
    """``kvm`` or ``qemu``."""
    hypervisor_why: str
    versions: dict[str, str]


class ConsoleStream(Protocol):
    """A serial console: bytes both ways."""

    async def read(self) -> bytes:
        """The next bytes; b"" at the end."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class Hypervisor(Protocol):
    """libvirt as the agent uses it. Blocking calls run in threads of the adapter, counted."""

    async def open(self) -> None:
        """Connect, register event callbacks, probe KVM. Reconnects by itself from then on."""
        ...

    async def close(self) -> None: ...

    async def quiesce(self) -> None:
        """Return when no libvirt call of ours is in flight."""
        ...

    async def barrier(self) -> None:
        """Make sure that nothing queued in the daemon by a dead client can still land: restart it.

        Running guests survive. Raises Unavailable when it cannot be done.
        """
        ...

    async def facts(self) -> HostFacts: ...

    async def teach_secret(self, secret: CephSecret) -> None:
        """Define the libvirt secret (idempotent; also after a reconnect)."""
        ...

    async def domains(self) -> list[Domain]:
        """Every local domain, running or only defined."""
        ...

    async def domain(self, uuid: str) -> Domain | None: ...

    def events(self) -> AsyncIterator[DomainEvent]:
        """Domain events for ever; a ``DomainEvent(uuid="", what="reconnected")`` means: look at everything."""
        ...

    async def boot(self, spec: DomainSpec, paused: bool = False) -> None:
        """Define, then start. A stale definition of the same UUID must be gone before.

        Raises Refused when libvirt rejects it (the message says why), Unavailable when it does not answer.
        """
        ...

    async def shutdown(self, uuid: str) -> None:
        """Ask the guest to power off (ACPI); returns at once. Absent or not running is fine."""
        ...

    async def kill(self, uuid: str) -> None:
        """Destroy *and undefine*; gone when it returns. Absent is fine."""
        ...

    async def pause(self, uuid: str) -> None: ...

    async def resume(self, uuid: str) -> None: ...

    async def retag(self, uuid: str, session: int, epoch: int) -> None:
        """Write session and epoch into the metadata of a domain, live and persistent (adopt)."""
        ...

    async def console(self, uuid: str) -> ConsoleStream:
        """Open the serial console; takes it from whoever had it."""
        ...


# ---------------------------------------------------------------------------------------------------------
# Network


class Network(Protocol):
    """Host networking for guests. One bridge a NIC for now; overlays come behind the same seam."""

    async def check(self, bridge: str) -> None:
        """Raises NotFound when this node has no such bridge."""
        ...

    def bridges(self) -> tuple[str, ...]:
        """Names of the bridges that this node has, sorted."""
        ...

    def addresses(self, mac: str) -> tuple[str, ...]:
        """IP addresses seen from that MAC (DHCP and ARP snooping), newest last."""
        ...

    def changes(self) -> AsyncIterator[str]:
        """MACs whose addresses changed."""
        ...

    async def open(self, bridges: tuple[str, ...]) -> None: ...

    async def close(self) -> None: ...
