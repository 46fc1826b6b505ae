"""What the doctor looks at, collected once, and what it finds.

Owns: reading etcd, its members and the storage for the checks. Refuses: judging; that is one file a check.
Rule: what could not be looked at is a finding too, never silence.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Any, Final, Protocol, runtime_checkable

from msgspec import Struct

from metastack.core.model import (
    Backup,
    BreakLock,
    Claim,
    ClusterConfig,
    ClusterShutdown,
    Counted,
    Credential,
    Fence,
    Generation,
    Halt,
    Hint,
    HostReturn,
    Image,
    Import,
    Maintenance,
    NodeAlive,
    NodeFacts,
    NodeSpec,
    Penalty,
    Project,
    Record,
    Refusal,
    Secret,
    StorageIdentity,
    StoragePlace,
    Trashed,
    VmSpec,
    VmStatus,
    Volume,
)
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import Unreadable, decode
from metastack.core.state.fence_proof import UNBLOCKED
from metastack.core.state.keys import Kind
from metastack.pki.facts import CertificateFacts
from metastack.ports import Denied, Refused, Storage, StorageOwner, Stray, TrashedDisk, Unavailable

from ..request import Cluster


class Severity(StrEnum):
    """How bad it is; the order is that of the list."""

    ERROR = "error"
    """VMs are down, or a failure now would hurt: exit status 1."""
    WARNING = "warning"
    """It works, less safely or less well than it should: exit status 1 with ``--strict``."""
    INFO = "info"
    """Worth knowing."""


class Finding(Struct, kw_only=True):
    """One thing that is not as it should be."""

    severity: Severity
    check: str
    """Name of the check, which is its file's."""
    object: str
    """Such as ``node n1``; ``cluster`` when no single object is to blame."""
    meaning: str
    """What is wrong and what follows from it."""
    command: str = ""
    """What to type to mend it, or to see more; empty when no command can."""
    name: str = ""
    deleted: bool = False


class Member(Protocol):
    """What an etcd member says about itself (the etcd adapter's MemberStatus)."""

    @property
    def endpoint(self) -> str: ...
    @property
    def error(self) -> str: ...
    @property
    def version(self) -> str: ...
    @property
    def leader_id(self) -> int: ...
    @property
    def db_size_bytes(self) -> int: ...
    @property
    def alarms(self) -> tuple[str, ...]: ...


@runtime_checkable
class TellsMembers(Protocol):
    """A store that can ask its members one by one; the in-memory twin has none."""

    async def status(self) -> tuple[Member, ...]: ...


class Rights(Protocol):
    """What etcd lets pass (the etcd adapter's RightsProof)."""

    @property
    def on(self) -> bool: ...
    @property
    def root(self) -> bool: ...
    @property
    def passed(self) -> tuple[str, ...]: ...


@runtime_checkable
class ProvesRights(Protocol):
    """A store that can ask whether rights hold; the in-memory twin has none."""

    async def rights(self, forbidden: str, readable: str) -> Rights: ...


class StorageFacts(Struct, kw_only=True):
    """What the storage said to this context's user."""

    kind: str
    remote_fence: bool
    blocked: tuple[str, ...] = ()
    """Of the addresses that any node declared."""
    may_unblock_anyone: bool = False
    user: str = ""
    here: StoragePlace | None = None
    """Which storage it is."""
    owner: StorageOwner | None = None
    """Whose mark it bears."""
    owner_why: str = ""
    """Why that could not be read."""
    strays: tuple[Stray, ...] = ()
    """What has a name such as ours, and no record."""
    trash: tuple[TrashedDisk, ...] = ()
    disks: frozenset[str] = frozenset()
    """UUIDs of disks that are there; empty when there is none, too."""


class Facts(Struct, kw_only=True):
    """Everything that the checks judge by."""

    world: ClusterState
    world_why: str = ""
    """Why the records could not be read; then the world is empty."""
    trashed: dict[str, Trashed] = {}
    """Disks that nodes moved to the trash, by UUID."""
    imports: frozenset[str] = frozenset()
    """UUIDs of imports that were begun."""
    backup: Backup | None = None
    """The newest that was recorded."""
    secrets: dict[str, list[str]] = {}
    """Names of secrets by the id of the key that they are encrypted under."""
    secrets_why: str = ""
    removing: set[str] = set()
    """Removed nodes whose credentials nobody has taken back."""
    """Why they were not looked at."""
    unreadable: dict[str, str] = {}
    """Key to why its record does not parse."""
    members: tuple[Any, ...] = ()
    rights: Any = None
    """What etcd lets pass of what it must refuse; None: not known."""
    rights_why: str = ""
    """Why that is not known."""
    certificate: CertificateFacts | None = None
    """The one that this context shows to etcd; None: it has none."""
    certificate_why: str = ""
    """Why it was not looked at."""
    min_ttl_s: int = 0
    """The shortest lease that this etcd grants, seconds; 0: not known."""
    version: str = ""
    """Of this program."""
    system: str = ""
    """Operating system under this program, such as ``debian 13``; empty: not looked at."""
    now: datetime
    storage: StorageFacts | None = None
    storage_why: str = ""
    """Why the storage was not looked at."""

    def alive(self) -> Iterator[tuple[str, NodeAlive]]:
        """Living nodes whose record can be read."""
        for name in self.world.nodes():
            found = self.world.alive(name)
            if found is not None and found.record is not None:
                yield name, found.record


KINDS: Final[dict[Kind, type[Record]]] = {
    Kind.CLUSTER: ClusterConfig,
    Kind.GENERATION: Generation,
    Kind.BACKUP: Backup,
    Kind.STORAGE: StorageIdentity,
    Kind.PROJECT: Project,
    Kind.IMAGE: Image,
    Kind.VM_SPEC: VmSpec,
    Kind.NODE_SPEC: NodeSpec,
    Kind.CLAIM: Claim,
    Kind.NODE_FACTS: NodeFacts,
    Kind.FENCE: Fence,
    Kind.HALT: Halt,
    Kind.NODE_ALIVE: NodeAlive,
    Kind.VM_STATUS: VmStatus,
    Kind.VOLUME: Volume,
    Kind.REFUSAL: Refusal,
    Kind.BREAK_LOCK: BreakLock,
    Kind.HINT: Hint,
    Kind.PENALTY: Penalty,
    Kind.TRASH: Trashed,
    Kind.COUNTED: Counted,
    Kind.IMPORT: Import,
    Kind.MAINTENANCE: Maintenance,
    Kind.HOST_RETURN: HostReturn,
    Kind.CLUSTER_SHUTDOWN: ClusterShutdown,
    Kind.CREDENTIAL: Credential,
}
NOBODYS_ADDRESS: Final = "192.0.2.1"
"""Of a range kept for documentation: whoever may unblock it may unblock anyone, and nothing is unblocked."""


async def collect(cluster: Cluster, version: str, now: datetime) -> Facts:
    """Everything that etcd can tell. Raises Unavailable when no member answers at all."""
    members = tuple(await cluster.store.status()) if isinstance(cluster.store, TellsMembers) else ()
    facts = Facts(world=ClusterState(cluster.keys), members=members, version=version, now=now)
    if isinstance(cluster.store, ProvesRights):
        try:
            facts.rights = await cluster.store.rights(cluster.keys.forbidden(), cluster.keys.cluster())
        except (Unavailable, Refused) as error:
            facts.rights_why = str(error)
    try:
        snapshot = await cluster.store.list(*cluster.keys.prefixes(KINDS))
        lease = await cluster.store.grant(1)
        facts.min_ttl_s = lease.ttl_s
        await cluster.store.revoke(lease)
    except Unavailable as error:
        if all(member.error for member in members):
            raise
        facts.world_why = str(error)
        return facts
    facts.world.load(snapshot)
    for entry in snapshot.entries:
        parsed = cluster.keys.parse(entry.key)
        if parsed is None or parsed.kind not in KINDS:
            continue
        try:
            record = decode(KINDS[parsed.kind], entry.value, entry.key)
        except Unreadable as error:
            facts.unreadable[entry.key] = error.why
            continue
        match record:
            case Trashed():
                facts.trashed[record.uuid] = record
            case Import():
                facts.imports |= {record.uuid}
            case Backup():
                facts.backup = record
            case Credential() if record.removing:
                facts.removing.add(record.node)
    await _secrets(cluster, facts)
    if facts.world.known_config.why:  # also when only a value is wrong
        facts.unreadable.setdefault(cluster.keys.cluster(), facts.world.known_config.why)
    return facts


async def _secrets(cluster: Cluster, facts: Facts) -> None:
    """By itself: only an admin may read them."""
    try:
        snapshot = await cluster.store.list(cluster.keys.prefix(Kind.SECRET))
    except (Denied, Unavailable) as error:
        facts.secrets_why = str(error)
        return
    for entry in snapshot.entries:
        try:
            secret = decode(Secret, entry.value, entry.key)
        except Unreadable as error:
            facts.unreadable[entry.key] = error.why
            continue
        facts.secrets.setdefault(secret.key_id, []).append(entry.key.rpartition("/")[2])


async def alarms(cluster: Cluster) -> frozenset[str]:
    """What etcd's members raise an alarm for; empty for a store that has no members."""
    if not isinstance(cluster.store, TellsMembers):
        return frozenset()
    return frozenset(name for member in await cluster.store.status() for name in member.alarms)


async def ask_storage(facts: Facts, storage: Storage, user: str) -> None:
    """What the storage can tell. Raises Unavailable, Refused."""
    found = StorageFacts(kind=storage.kind, remote_fence=storage.remote_fence, user=user)
    try:
        found.owner = await storage.owner()
        found.here = await storage.identity()
    except Refused as error:
        found.owner_why = str(error)
    if storage.remote_fence:
        found.blocked = await storage.blocked(declared(facts.world))
        try:
            await storage.unfence((NOBODYS_ADDRESS,))
            found.may_unblock_anyone = True
        except Denied:
            pass
        except (Refused, Unavailable):
            found.may_unblock_anyone = True  # it was not told no: there was nothing to unblock
    found.strays = tuple(await storage.strays(known(facts)))
    found.trash, found.disks = tuple(await storage.trash()), frozenset(await storage.disks())
    facts.storage = found


def known(facts: Facts) -> frozenset[str]:
    """Every UUID of a disk or an image that some record has."""
    world = facts.world
    uuids = {names[1] for names, _ in world.volumes()} | facts.trashed.keys() | facts.imports
    uuids |= {image.record.uuid for _, image in world.images() if image.record is not None}
    for _, spec in world.specs():
        if spec.record is not None:
            uuids |= {spec.record.volume_uuid, spec.record.image_uuid}
    return frozenset(uuids)


def declared(world: ClusterState) -> tuple[str, ...]:
    """Every storage address that any node declared, and everything that a fence blocked."""
    found: set[str] = set()
    for name in world.nodes():
        facts, fence = world.facts(name), world.fence(name)
        if facts is not None and facts.record is not None:
            found.update(facts.record.storage_addresses)
        receipt = fence.record.receipt if fence is not None and fence.record is not None else None
        if receipt is not None and receipt.method != UNBLOCKED:
            found.update((*receipt.addresses, *receipt.clients))
    return tuple(sorted(found))


def error(object: str, meaning: str, command: str = "") -> Finding:
    """A finding; the frame fills in which check it is of."""
    return Finding(severity=Severity.ERROR, check="", object=object, meaning=meaning, command=command)


def warning(object: str, meaning: str, command: str = "") -> Finding:
    return Finding(severity=Severity.WARNING, check="", object=object, meaning=meaning, command=command)


def info(object: str, meaning: str, command: str = "") -> Finding:
    return Finding(severity=Severity.INFO, check="", object=object, meaning=meaning, command=command)
