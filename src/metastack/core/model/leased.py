"""Records that say what is: nodes alive and the VMs on them (leased), events, tickets, the generation."""

from __future__ import annotations

from msgspec import Struct, field

from .names import Phase
from .numbers import Record


class Resources(Struct, frozen=True, kw_only=True):
    """An amount of what VMs consume."""

    cpus: float = 0
    memory_mib: int = 0
    other: dict[str, int] = field(default_factory=dict)
    """Whole amounts of whatever else a node declares (``hugepages_2m``, ``gpu``, ...)."""


class NodeAlive(Record, frozen=True, kw_only=True):
    """``actual/nodes/<node>``: leased. Its create revision at registration is the session."""

    v: int = 3
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
    """Sum over the VMs that the node owns."""
    vms: int = 0
    hypervisor: str = ""
    """``kvm`` or ``qemu`` (TCG)."""
    hypervisor_why: str = ""
    """How that was proven."""
    storage: str = ""
    """``ceph`` or ``file``."""
    bridges: tuple[str, ...] = ()
    """Bridges that a NIC can be plugged into."""
    versions: dict[str, str] = field(default_factory=dict)
    record_version: int = 0
    """The newest record level that its agent understands; 0: an older agent, which understands 1."""
    lag_ms: int = 0
    """How late the node hears of changes, in coarse steps: those behind it in rank wait longer for it."""
    arch: str = ""
    cpu_features: tuple[str, ...] = ()
    storage_ok: bool = True
    """False while the node cannot reach its storage: it takes nothing."""
    storage_silent_since: str = ""
    """Since when no operation of its storage has succeeded, RFC 3339 UTC, for people; empty: they succeed."""
    storage_silent_at: int = 0
    """Revision of the announcement that first said so; 0 means "this put's revision"."""
    storage_proved: int = 0
    """A storage operation that began after the node had seen this revision succeeded, promptly. Told only
    while another node's storage is silent."""
    blocked: bool = False
    """The node found itself shut out of the storage."""
    message: str = ""
    brake: str = ""
    """Why it fences nothing right now: the mass brake; empty: it would."""
    fence_failures: dict[str, str] = field(default_factory=dict)
    """Nodes that it cannot fence, and why."""
    warnings: tuple[str, ...] = ()
    """What the node finds wrong with itself."""
    boot_id: str = ""
    """Boot of the machine that the session is of; empty: written by an older version."""
    leaving: str = ""
    """Its host shuts down: ``release`` or ``return``, what becomes of its VMs; empty: it does not."""
    pauses: bool = False
    """Its agent heeds ``maintenance``; false: an older one, which fences and drains all the same."""
    secret_keys: tuple[str, ...] = ()
    """Ids of the keys in its keyring: it reads the secrets that are encrypted under one of them."""


class VmStatus(Record, frozen=True, kw_only=True):
    """``actual/vms/<project>/<vm>``: leased, by the owner."""

    v: int = 3
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
    ready: bool = True
    """False while the port that ``ha.ready_port`` names does not answer yet."""
    drift: tuple[str, ...] = ()
    """How the guest differs from its spec, because somebody changed it by hand."""
    elsewhere: str = ""
    """Where it writes, when that is not its disk: booted again it would begin without what it wrote since."""
    disk_held_by: str = ""
    """Client that has its disk open, for which a start or a resume waits; empty: nobody is in the way."""


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
    """``tickets/<hash>``: one console, one use; leased for 30 s. The key has the SHA-256 of the ticket,
    which itself stands nowhere: who may read etcd opens no console by it."""

    project: str
    vm: str
    uuid: str
    node: str
    kind: str = "serial"
    by: str = ""


class Hint(Record, frozen=True, kw_only=True):
    """``hints/<project>/<vm>``: leased. Where a scheduler would put a VM; nodes honour it while it lives."""

    uuid: str
    """The VM's: a hint for another VM of that name is void."""
    node: str
    by: str = ""


class Penalty(Record, frozen=True, kw_only=True):
    """``penalties/<project>/<vm>/<node>``: under a lease of its own. The VM could not start on that node.

    It is about one version of the spec: any later one (``vm start`` makes one) is void of it.
    """

    uuid: str
    """The VM's: a penalty of another VM of that name is void."""
    spec_mod: int
    """Revision of the spec that could not be started there."""
    reason: str
    at: str = ""
    until: str = ""
    """When its lease ends, by that node's clock, RFC 3339 UTC: for people."""
    tries: int = 0


class Leader(Record, frozen=True, kw_only=True):
    """``scheduler/leader``: leased. Which scheduler writes hints; its create revision is its term."""

    name: str
    since: str = ""


class Generation(Record, frozen=True, kw_only=True):
    """``config/generation``: raised when etcd is restored from a backup."""

    generation: int = 0
