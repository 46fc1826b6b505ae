"""The records that live in etcd, and the names and bounds they must keep.

Owns: the shape of every record, the number types (session, epoch, through) and what a valid name is.
Refuses: I/O, clocks, defaults that depend on a machine.
Rule: a record changes only with a new ``v`` and a golden file; readers ignore unknown fields and refuse a
newer ``v`` (see :mod:`metastack.core.codec`).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final

import msgspec
from msgspec import Meta, Struct

NAME_RE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123): what every project, VM, node, image and network is called."""

# ---------------------------------------------------------------------------------------------------------
# Numbers that only grow. Session, epoch and through are the etcd revision of the put that made them, paired
# with the cluster's generation (raised when etcd is restored from a backup, which turns revisions back).
# The pair is one integer, so that comparing two of them is comparing two integers; up to generation 511 it
# also fits a JavaScript number.

_REVISION_BITS: Final = 44


def token(generation: int, revision: int) -> int:
    """The ordered pair (generation, revision) as one integer."""
    if not 0 <= revision < 1 << _REVISION_BITS:
        raise ValueError(f"revision {revision} out of range")
    return (generation << _REVISION_BITS) | revision


def token_revision(value: int) -> int:
    """The etcd revision inside a token."""
    return value & ((1 << _REVISION_BITS) - 1)


def token_generation(value: int) -> int:
    """The cluster generation inside a token."""
    return value >> _REVISION_BITS


class Record(Struct, kw_only=True, omit_defaults=False, frozen=True):
    """Base of everything stored in etcd: JSON with a version."""

    v: int = 1


# ---------------------------------------------------------------------------------------------------------
# Identities


class VmId(Struct, frozen=True, order=True):
    """A VM's name: unique in its project; the UUID in the spec tells two VMs of one name apart."""

    project: str
    name: str

    def __str__(self) -> str:
        return f"{self.project}/{self.name}"


class Phase(StrEnum):
    """Where a VM is in its life, as a reader sees it."""

    PENDING = "pending"
    CLAIMED = "claimed"
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    MIGRATING = "migrating"
    FAILED = "failed"


class NodeState(StrEnum):
    """What a node is good for, as a reader sees it."""

    READY = "ready"
    CORDONED = "cordoned"
    DRAINING = "draining"
    LOST = "lost"


class Power(StrEnum):
    """What a person wants a VM's power to be."""

    ON = "on"
    OFF = "off"


# ---------------------------------------------------------------------------------------------------------
# config/


class Fencing(StrEnum):
    """What a fence blocks."""

    ADDRESS = "address"
    """Every client of the node's storage addresses, also those to come."""
    CLIENT = "client"
    """Weaker: the clients known by their disks; for nodes that share an address (docs/safety.md)."""


class ClusterConfig(Record, frozen=True, kw_only=True):
    """``config/cluster``: the platform's settings, typed and bounded; agents follow changes live."""

    lease_ttl_s: Annotated[int, Meta(ge=2, le=60)] = 5
    """Life of a node's lease, seconds. etcd's floor is ceil(1.5 x election timeout): 2 s at its defaults."""
    grace_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.5
    """Wait between a lease's expiry and the fence, seconds. Comfort, not safety."""
    overcommit_cpu: Annotated[float, Meta(ge=0.1, le=64.0)] = 4.0
    """vCPUs promised for each physical CPU."""
    overcommit_memory: Annotated[float, Meta(ge=0.1, le=4.0)] = 1.0
    """Guest memory promised for each byte of a node's memory left after the host reserve."""
    host_reserve_mib: Annotated[int, Meta(ge=0, le=1 << 20)] = 1024
    """Memory of each node that VMs never get, MiB."""
    rank_delay_ms: Annotated[int, Meta(ge=1, le=5000)] = 30
    """Delay between two ranks that try to claim the same VM, milliseconds (DESIGN 5's delta)."""
    brake_percent: Annotated[int, Meta(ge=0, le=100)] = 50
    """Fence nothing when more than this share of the joined, uncordoned nodes vanished within the window."""
    brake_window_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    """Window of the mass brake, seconds."""
    fencing: Fencing = Fencing.ADDRESS
    """``address``, or the weaker ``client`` for nodes that share a storage address; see docs/safety.md."""
    stop_timeout_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    """How long a guest may take to shut down gracefully before it is forced off, seconds."""
    trash_retention_s: Annotated[int, Meta(ge=0, le=31_536_000)] = 86_400
    """How long a deleted disk stays in the trash, seconds."""
    crash_backoff_s: Annotated[float, Meta(ge=0.1, le=600.0)] = 2.0
    """First wait after a guest crashed; doubles with every crash, seconds."""
    crash_backoff_max_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 300.0
    """Longest wait between two boots of a guest that keeps crashing, seconds."""
    full_look_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    """How often an agent looks at everything although no event asked for it, seconds."""
    event_retention_days: Annotated[int, Meta(ge=1, le=365)] = 7
    """How long entries under events/ are kept, days."""
    history_versions: Annotated[int, Meta(ge=1, le=1000)] = 20
    """Spec versions kept for each VM."""
    default_network: str = ""
    """Bridge that a VM gets when none is named; empty: no NIC."""
    default_pool: str = "vms"
    """Ceph pool (or folder of the file backend) for disks and images."""
    syslog: str = ""
    """Central syslog server as ``tcp://HOST:PORT``; empty: none."""


class Project(Record, frozen=True, kw_only=True):
    """``config/projects/<name>``: a room for VMs. ``default`` exists without a record."""

    name: str
    created: str = ""
    by: str = ""
    reason: str = ""
    request_id: str = ""


class ImageState(StrEnum):
    IMPORTING = "importing"
    READY = "ready"
    DELETING = "deleting"


class Image(Record, frozen=True, kw_only=True):
    """``config/images/<name>``: what disks are cloned from. While ``importing`` the key is leased."""

    name: str
    uuid: str
    """Names the image in the storage: a re-import under the same name is another image."""
    state: ImageState
    format: str = "raw"
    """Format of the source: raw or qcow2. In the storage it is the backend's own."""
    size_bytes: int = 0
    """Virtual size, bytes; 0 while importing."""
    sha256: str = ""
    """Of the source file as it was read."""
    source: str = ""
    created: str = ""
    """RFC 3339, UTC."""
    by: str = ""
    importer: str = ""
    """Who imports, as ``host:pid``; for people only."""
    message: str = ""


# ---------------------------------------------------------------------------------------------------------
# desired/


class Nic(Struct, frozen=True, kw_only=True):
    """One network card: a bridge and the MAC allocated once at creation."""

    bridge: str
    mac: str


class Placement(Struct, frozen=True, kw_only=True):
    """What a person demands of the place."""

    node: str = ""
    """Pin by hand: only this node may take the VM."""


class VmSpec(Record, frozen=True, kw_only=True):
    """``desired/vms/<project>/<vm>``: what a person wants."""

    project: str
    name: str
    uuid: str
    image: str
    image_uuid: str
    volume_uuid: str
    """Names the root disk in the storage (CE6: never the VM's name)."""
    cpus: int
    memory_mib: int
    disk_bytes: int
    power: Power = Power.ON
    run: int = 1
    """Raised by start and restart: a domain of a lower run is stopped, a halt of a lower run is void."""
    force: bool = False
    """How the last stop or restart is done: true pulls the plug."""
    paused_epoch: int = 0
    """The claim epoch in which the VM is to stay paused; another epoch's boot runs."""
    nics: tuple[Nic, ...] = ()
    labels: dict[str, str] = {}
    placement: Placement = Placement()
    created: str = ""
    by: str = ""
    reason: str = ""
    request_id: str = ""

    @property
    def id(self) -> VmId:
        return VmId(self.project, self.name)


class NodeSpec(Record, frozen=True, kw_only=True):
    """``desired/nodes/<node>``: what a person wants of a node."""

    cordoned: bool = False
    draining: bool = False
    labels: dict[str, str] = {}
    overcommit_cpu: float | None = None
    overcommit_memory: float | None = None
    by: str = ""
    reason: str = ""
    request_id: str = ""


# ---------------------------------------------------------------------------------------------------------
# claims/, nodes/, fences/, halts/: durable facts written by agents


class Claim(Record, frozen=True, kw_only=True):
    """``claims/<project>/<vm>``: which node session answers for a VM. Durable, never leased."""

    node: str
    session: int
    """Token of the node session that answers."""
    uuid: str
    """The VM's, so that a VM made anew under the same name is never confused with this one."""
    volume_uuid: str
    claim_id: str
    """Random: tells a lost reply from a lost race."""
    generation: int = 0
    """Cluster generation when the claim was put."""
    epoch: int = 0
    """Token. Stored as 0 by claim and takeover, meaning "the revision of this put" (CE4)."""
    taken_from: str = ""
    """After a takeover: the node that lost the VM."""
    was_paused: bool = False
    """After a takeover: the VM was paused there; it runs again here, and says so."""


class NodeFacts(Record, frozen=True, kw_only=True):
    """``nodes/<node>``: durable facts that outlive the lease; what a fencer needs to know."""

    name: str
    uuid: str
    storage_addresses: tuple[str, ...] = ()
    """Every address the node may use towards the storage. Added before first use."""
    joined: str = ""


class Fence(Record, frozen=True, kw_only=True):
    """``fences/<node>``: every session up to ``through`` is shut out of the storage. Only grows."""

    through: int = 0
    """Token: of the last *done* fence."""
    intent_by: str = ""
    """Node that is fencing right now; empty: no intent open."""
    intent_session: int = 0
    """The fencer's session."""
    intent: bool = False
    """An intent is open; its own ``through`` is the revision of the put that opened it ..."""
    intent_through: int = 0
    """... kept here by a fencer that takes the intent over; 0 means "this put's revision"."""
    generation: int = 0
    receipt: FenceReceipt | None = None
    intent_at: str = ""
    """When the intent was opened, RFC 3339 UTC; for people only."""
    intent_reason: str = ""
    """Why a person asked for it; empty: the lease expired."""


class FenceReceipt(Struct, frozen=True, kw_only=True):
    """What was done to shut a node out, and how it was verified."""

    at: str
    by: str
    method: str
    """``ceph-blocklist`` or ``image-lock`` (the file backend: nothing is blocked remotely)."""
    addresses: tuple[str, ...] = ()
    osd_epoch: int = 0
    """OSD map that carries the block, as waited for."""
    verified: str = ""
    reason: str = ""


class Halt(Record, frozen=True, kw_only=True):
    """``halts/<project>/<vm>``: the guest switched itself off in this run; it stays off until ``vm start``."""

    uuid: str
    run: int
    at: str
    node: str
    message: str = ""


class Volume(Record, frozen=True, kw_only=True):
    """``actual/volumes/<project>/<uuid>``: a disk that exists or may exist; written before the disk is made."""

    uuid: str
    project: str
    vm: str
    vm_uuid: str
    size_bytes: int
    image_uuid: str
    pool: str = ""
    trash_retention_s: int = 86_400


# ---------------------------------------------------------------------------------------------------------
# actual/: leased


class Resources(Struct, frozen=True, kw_only=True):
    """An amount of what VMs consume."""

    cpus: float = 0
    memory_mib: int = 0


class NodeAlive(Record, frozen=True, kw_only=True):
    """``actual/nodes/<node>``: leased. Its create revision at registration is the session."""

    name: str
    generation: int = 0
    ready: bool = False
    since: str = ""
    """When this session registered, RFC 3339 UTC."""
    address: str = ""
    """Where peers and tools reach the node."""
    storage_address: str = ""
    console: str = ""
    """``host:port`` of the console endpoint."""
    capacity: Resources = Resources()
    """What the machine has, before overcommit and reserve."""
    allocated: Resources = Resources()
    """Sum over the VMs that the node answers for."""
    vms: int = 0
    hypervisor: str = ""
    """``kvm`` or ``qemu`` (TCG)."""
    hypervisor_why: str = ""
    """How that was proven."""
    storage: str = ""
    """``ceph`` or ``file``."""
    bridges: tuple[str, ...] = ()
    """Bridges that a NIC can be plugged into."""
    versions: dict[str, str] = {}
    lag_ms: int = 0
    blocked: bool = False
    """The node found itself shut out of the storage."""
    message: str = ""
    brake: str = ""
    """Why it fences nothing right now: the mass brake; empty: it would."""
    fence_failures: dict[str, str] = {}
    """Nodes that it fences in vain, and what stands in the way."""
    warnings: tuple[str, ...] = ()
    """What the node finds wrong with itself."""


class VmStatus(Record, frozen=True, kw_only=True):
    """``actual/vms/<project>/<vm>``: leased, by the owner."""

    uuid: str
    phase: Phase
    node: str
    session: int
    epoch: int
    """0 means "the epoch of the claim beside it" (written in the claim's own transaction)."""
    run: int = 0
    ips: tuple[str, ...] = ()
    since: str = ""
    message: str = ""
    crashes: int = 0
    retry_at: str = ""
    """When the next boot of a crashing guest is due, RFC 3339 UTC; empty: none is waiting."""
    vnc: str = ""


# ---------------------------------------------------------------------------------------------------------
# the rest


class Event(Record, frozen=True, kw_only=True):
    """``events/<time>-<id>``: who did what to which object, and why."""

    at: str
    by: str
    what: str
    object: str
    message: str = ""
    reason: str = ""
    request_id: str = ""


class Ticket(Record, frozen=True, kw_only=True):
    """``tickets/<id>``: one console, one use; leased for 30 s."""

    project: str
    vm: str
    uuid: str
    node: str
    kind: str = "serial"
    by: str = ""


class Generation(Record, frozen=True, kw_only=True):
    """``config/generation``: raised when etcd is restored from a backup."""

    generation: int = 0


RECORDS: Final[dict[str, type[Record]]] = {
    "cluster": ClusterConfig,
    "project": Project,
    "image": Image,
    "vm_spec": VmSpec,
    "node_spec": NodeSpec,
    "claim": Claim,
    "node_facts": NodeFacts,
    "fence": Fence,
    "halt": Halt,
    "volume": Volume,
    "node_alive": NodeAlive,
    "vm_status": VmStatus,
    "event": Event,
    "ticket": Ticket,
    "generation": Generation,
}
"""Every record kind, by the name of its golden file."""


def valid_name(name: str) -> bool:
    """True for a DNS label."""
    return NAME_RE.fullmatch(name) is not None


def resolved_claim(claim: Claim, mod_revision: int) -> Claim:
    """The claim with its epoch as a number (stored 0 means the put's own revision)."""
    if claim.epoch:
        return claim
    return msgspec.structs.replace(claim, epoch=token(claim.generation, mod_revision))


def resolved_intent(fence: Fence, mod_revision: int) -> int:
    """The ``through`` an open intent will reach when done; 0 when none is open."""
    if not fence.intent:
        return 0
    return fence.intent_through or token(fence.generation, mod_revision)
