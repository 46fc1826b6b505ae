"""The cluster state: every record that etcd holds, folded from a snapshot and the events after it.

Owns: the one picture that agents and commands decide and read from.
Refuses: to guess. A record that does not parse is kept as *unreadable* with its reason, so that one broken
VM is left alone and the rest goes on.
Rule: events are applied in revision order and ``revision`` never goes back.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any, Final, TypeVar
from zlib import crc32

from ..model import (
    BreakLock,
    Claim,
    ClusterConfig,
    ClusterShutdown,
    Fence,
    Generation,
    Group,
    Halt,
    Hint,
    HostReturn,
    Image,
    Maintenance,
    NodeAlive,
    NodeFacts,
    NodeSpec,
    Penalty,
    Record,
    Refusal,
    Silenced,
    StorageIdentity,
    StoragePlace,
    VmId,
    VmSpec,
    VmStatus,
    Volume,
    is_halted,
    resolved_claim,
    token,
)
from ..transaction import Batch, Delete, Entry, KeyEvent, Snapshot, Transaction
from .claim_counts import ClaimCounts
from .codec import Unreadable, decode
from .effective_config import EffectiveConfig
from .fence_proof import discounted
from .keys import Keys, Kind, ParsedKey
from .record_versions import LEVEL, settings_level
from .seen import Seen, mod_of
from .validation import flaw

__all__ = ["ClusterState", "Seen", "mod_of", "seen", "wanted", "wants_on"]

R = TypeVar("R", bound=Record)

RECORD_TYPES: Final[dict[Kind, type[Record]]] = {
    Kind.CLUSTER: ClusterConfig,
    Kind.GENERATION: Generation,
    Kind.STORAGE: StorageIdentity,
    Kind.IMAGE: Image,
    Kind.VM_SPEC: VmSpec,
    Kind.NODE_SPEC: NodeSpec,
    Kind.CLAIM: Claim,
    Kind.NODE_FACTS: NodeFacts,
    Kind.FENCE: Fence,
    Kind.HALT: Halt,
    Kind.GROUP: Group,
    Kind.HINT: Hint,
    Kind.PENALTY: Penalty,
    Kind.NODE_ALIVE: NodeAlive,
    Kind.VM_STATUS: VmStatus,
    Kind.VOLUME: Volume,
    Kind.REFUSAL: Refusal,
    Kind.SILENCED: Silenced,
    Kind.BREAK_LOCK: BreakLock,
    Kind.MAINTENANCE: Maintenance,
    Kind.HOST_RETURN: HostReturn,
    Kind.CLUSTER_SHUTDOWN: ClusterShutdown,
}
"""Kinds that are part of the picture."""
ON_DEMAND: Final = (Kind.EVENT, Kind.HISTORY, Kind.TICKET, Kind.SECRET, Kind.TOKEN, Kind.CREDENTIAL)
"""Kinds that are read on demand, and that no watch keeps."""


def seen(kind: type[R], entry: Entry) -> Seen[R]:
    """An entry as a typed, seen record."""
    try:
        record = decode(kind, entry.value, entry.key)
    except Unreadable as error:
        return Seen(None, entry.mod_revision, entry.create_revision, entry.lease, str(error))
    why = flaw(record, entry.key)
    if why:
        return Seen(None, entry.mod_revision, entry.create_revision, entry.lease, f"{entry.key}: {why}")
    if isinstance(record, Claim):
        record = resolved_claim(record, entry.mod_revision)  # type: ignore[assignment]
    return Seen(record, entry.mod_revision, entry.create_revision, entry.lease, check=crc32(entry.value))


def _is_of(found: Seen[Any], entry: Entry) -> bool:
    """That entry was decoded already. A full look sees ten thousand records that nobody wrote since the last.

    Safety: revisions alone do not tell: in an etcd that was restored, others wrote at the same ones.
    """
    return (found.mod, found.create, found.lease, found.check) == (
        entry.mod_revision, entry.create_revision, entry.lease, crc32(entry.value)
    )  # fmt: skip


class ClusterState:
    """Everything known, at one revision."""

    def __init__(self, keys: Keys) -> None:
        self.keys = keys
        self.revision = 0
        self._floor = 0
        self._tables: dict[Kind, dict[tuple[str, ...], Seen[Any]]] = {kind: {} for kind in RECORD_TYPES}
        self._tally = ClaimCounts()
        self.known_config = EffectiveConfig()
        self.storage_here: StoragePlace | None = None
        """What this program's storage is; None: it has none open."""
        self.missed_key = ""
        """A key that was put only because of another that this world never heard of; empty: there is none.
        It is no picture of etcd then, whatever its revision, until everything is listed."""
        self.on_demand = (*(keys.prefix(kind) for kind in ON_DEMAND), keys.joins())
        """Every change brings an event: half of all keys are of these kinds, and need not be taken apart."""

    def restart(self) -> None:
        """What comes next is another history, whose revisions begin again."""
        self.revision = self._floor = 0

    # --- folding
    def load(self, snapshot: Snapshot) -> set[ParsedKey]:
        """Replace the picture by a snapshot; returns every key that differs from the one before."""
        fresh: dict[Kind, dict[tuple[str, ...], Seen[Any]]] = {kind: {} for kind in RECORD_TYPES}
        for entry in snapshot.entries:
            parsed = self.keys.parse(entry.key)
            if parsed is not None and parsed.kind in RECORD_TYPES:
                known = self._tables[parsed.kind].get(parsed.names)
                if known is None or not _is_of(known, entry):
                    known = seen(RECORD_TYPES[parsed.kind], entry)
                fresh[parsed.kind][parsed.names] = known
        changed: set[ParsedKey] = set()
        for kind, table in fresh.items():
            old = self._tables[kind]
            for names in old.keys() | table.keys():
                before, after = old.get(names), table.get(names)
                if before is after:
                    continue
                if before is None or after is None or (before.mod, before.check) != (after.mod, after.check):
                    changed.add(ParsedKey(kind, names))
        self._tables, self.missed_key = fresh, ""
        self._tally.forget()
        self.known_config.note(self._get(Kind.CLUSTER, ClusterConfig))
        self.revision = self._floor = max(self.revision, snapshot.revision)
        return changed

    def younger(self, snapshot: Snapshot) -> str:
        """A key of which this world has a later version than that later listing; empty: there is none.

        No history has such a key, not even one of which events were lost: a revision of a key only grows.
        """
        for entry in snapshot.entries:
            parsed = self.keys.parse(entry.key)
            table = self._tables.get(parsed.kind, {}) if parsed is not None else {}
            if parsed is not None and mod_of(table.get(parsed.names)) > entry.mod_revision:
                return entry.key
        return ""

    def lacks(self, change: Transaction, revision: int) -> str:
        """A key that this change wrote at that revision, and of which this world has an earlier version,
        although it is no older; empty: there is none.

        What is not there at all may have been deleted since, unless the world is of that very revision.
        """
        if self.revision < revision:
            return ""
        for effect in change.effects:
            parsed = self.keys.parse(effect.key)
            if parsed is None or parsed.kind not in RECORD_TYPES or effect.key.startswith(self.on_demand):
                continue
            found = mod_of(self._tables[parsed.kind].get(parsed.names))
            if isinstance(effect, Delete):
                missed = 0 < found <= revision
            else:
                missed = found < revision and (found > 0 or self.revision == revision)
            if missed:
                return effect.key
        return ""

    def apply(self, batch: Batch) -> set[ParsedKey]:
        """Fold a batch in; returns the keys that it touched."""
        changed: set[ParsedKey] = set()
        for event in batch.events:
            if event.revision <= self._floor:
                continue  # the snapshot has it already; its put may have been deleted since
            if event.key.startswith(self.on_demand):
                continue
            parsed = self._apply_one(event)
            if parsed is not None:
                changed.add(parsed)
        self.revision = max(self.revision, batch.revision)
        return changed

    def _apply_one(self, event: KeyEvent) -> ParsedKey | None:
        parsed = self.keys.parse(event.key)
        if parsed is None or parsed.kind not in RECORD_TYPES:
            return None
        kind, names = parsed.kind, parsed.names
        table = self._tables[kind]
        if kind is Kind.CLAIM:
            self._tally.forget()
        if event.entry is None:
            table.pop(names, None)
            if kind is Kind.CLUSTER:
                self.known_config.note(None)
            return parsed
        table[names] = seen(RECORD_TYPES[kind], event.entry)
        fresh = event.entry.create_revision == event.entry.mod_revision
        if kind is Kind.CLAIM and fresh and names not in self._tables[Kind.VM_SPEC]:
            self.missed_key = event.key  # who claims a VM that nobody has compares its spec
        if kind is Kind.CLUSTER:
            self.known_config.note(self._get(Kind.CLUSTER, ClusterConfig))
        return parsed

    def with_hints(self, hints: Mapping[VmId, Hint]) -> ClusterState:
        """The same picture with other hints; the rest is shared: follow events with this one only."""
        other = copy.copy(self)
        told: dict[tuple[str, ...], Seen[Any]] = {
            (vm.project, vm.name): Seen(hint, self.revision, self.revision) for vm, hint in hints.items()
        }
        other._tables = {**self._tables, Kind.HINT: told}
        return other

    # --- reading
    def _get(self, kind: Kind, cls: type[R], *names: str) -> Seen[R] | None:
        return self._tables[kind].get(names)

    def names(self, kind: Kind) -> Iterator[tuple[str, ...]]:
        """The names of every object of a kind."""
        return iter(self._tables[kind])

    @property
    def config(self) -> ClusterConfig:
        """The platform's settings that hold."""
        return self.known_config.config

    def settings_seen(self) -> Seen[ClusterConfig] | None:
        return self._get(Kind.CLUSTER, ClusterConfig)

    @property
    def level(self) -> int:
        """The record level that writers keep to; 1 while the settings were never read."""
        return settings_level(self.config)

    def generation_seen(self) -> Seen[Generation] | None:
        return self._get(Kind.GENERATION, Generation)

    @property
    def generation(self) -> int:
        found = self.generation_seen()
        return found.record.generation if found is not None and found.record is not None else 0

    def storage_identity(self) -> Seen[StorageIdentity] | None:
        """Which storage this cluster's disks are in; None: a cluster of before that was recorded."""
        return self._get(Kind.STORAGE, StorageIdentity)

    @property
    def storage_readable(self) -> bool:
        """It is told, or nobody said anything."""
        found = self.storage_identity()
        return found is None or found.record is not None

    def image(self, name: str) -> Seen[Image] | None:
        return self._get(Kind.IMAGE, Image, name)

    def spec(self, vm: VmId) -> Seen[VmSpec] | None:
        return self._get(Kind.VM_SPEC, VmSpec, vm.project, vm.name)

    def claim(self, vm: VmId) -> Seen[Claim] | None:
        return self._get(Kind.CLAIM, Claim, vm.project, vm.name)

    def owner(self, vm: VmId) -> str:
        """The node that the VM's claim names; empty: nobody's, or nobody knows."""
        found = self.claim(vm)
        return found.record.node if found is not None and found.record is not None else ""

    def status(self, vm: VmId) -> Seen[VmStatus] | None:
        return self._get(Kind.VM_STATUS, VmStatus, vm.project, vm.name)

    def halt(self, vm: VmId) -> Seen[Halt] | None:
        return self._get(Kind.HALT, Halt, vm.project, vm.name)

    def hint(self, vm: VmId) -> Seen[Hint] | None:
        return self._get(Kind.HINT, Hint, vm.project, vm.name)

    def hints(self) -> Iterator[tuple[VmId, Seen[Hint]]]:
        for names, found in self._tables[Kind.HINT].items():
            yield VmId(*names), found

    def penalty(self, vm: VmId, node: str) -> Penalty | None:
        """Why that VM is not to be started on that node; None when it may, or its spec has changed since."""
        found = self._get(Kind.PENALTY, Penalty, vm.project, vm.name, node)
        if found is None or found.record is None:
            return None
        spec = self._tables[Kind.VM_SPEC].get((vm.project, vm.name))
        return found.record if mod_of(spec) == found.record.spec_mod else None

    def group(self, project: str, group: str, domain: str) -> Seen[Group] | None:
        return self._get(Kind.GROUP, Group, project, group, domain)

    def volume(self, project: str, uuid: str) -> Seen[Volume] | None:
        return self._get(Kind.VOLUME, Volume, project, uuid)

    def alive(self, node: str) -> Seen[NodeAlive] | None:
        return self._get(Kind.NODE_ALIVE, NodeAlive, node)

    def facts(self, node: str) -> Seen[NodeFacts] | None:
        return self._get(Kind.NODE_FACTS, NodeFacts, node)

    def fence(self, node: str) -> Seen[Fence] | None:
        return self._get(Kind.FENCE, Fence, node)

    def break_lock(self, vm: VmId) -> Seen[BreakLock] | None:
        return self._get(Kind.BREAK_LOCK, BreakLock, vm.project, vm.name)

    def refusal(self, node: str) -> Seen[Refusal] | None:
        return self._get(Kind.REFUSAL, Refusal, node)

    def maintenance(self) -> Seen[Maintenance] | None:
        return self._get(Kind.MAINTENANCE, Maintenance)

    def host_return(self, node: str) -> Seen[HostReturn] | None:
        return self._get(Kind.HOST_RETURN, HostReturn, node)

    def cluster_shutdown(self) -> Seen[ClusterShutdown] | None:
        return self._get(Kind.CLUSTER_SHUTDOWN, ClusterShutdown)

    def silenced(self) -> Seen[Silenced] | None:
        return self._get(Kind.SILENCED, Silenced)

    def unfenced(self, node: str) -> int:
        """Claims of the node's sessions that no done fence reaches, or only one that does not count."""
        through = self.shut_out_through(node)
        sessions = self._tally.of(node, self._tables[Kind.CLAIM].values())
        return sum(count for session, count in sessions.items() if session > through)

    def node_spec(self, node: str) -> Seen[NodeSpec] | None:
        return self._get(Kind.NODE_SPEC, NodeSpec, node)

    def session(self, node: str) -> int:
        """The node's living session, or 0."""
        found = self.alive(node)
        if found is None:
            return 0
        return token(found.record.generation if found.record is not None else 0, found.create)

    def fenced_through(self, node: str) -> int:
        """Every session of the node up to this one is shut out of the storage."""
        found = self.fence(node)
        return found.record.through if found is not None and found.record is not None else 0

    def has(self, kind: Kind, names: tuple[str, ...]) -> bool:
        """Whether there is such a record, readable or not."""
        return names in self._tables[kind]

    def fence_flaw(self, node: str) -> str:
        """Why nobody may take over what the node's last fence reached; empty: one may.

        Safety: a fence that does not count is proof all the same once the node has registered above it: before
        it did, it killed what the fence reached.
        """
        found = self.fence(node)
        if found is None or found.record is None or self.session(node) > found.record.through:
            return ""
        facts = self.facts(node)
        victim = facts.record if facts is not None else None
        mixed = self.level < LEVEL
        return discounted(found.record, victim, self.storage_identity(), self.storage_here, mixed)

    def shut_out_through(self, node: str) -> int:
        """As :meth:`fenced_through`, by a fence that a takeover may build on; what the node itself must kill is
        never less than the other says."""
        through = self.fenced_through(node)
        return 0 if through and self.fence_flaw(node) else through

    def count(self, *kinds: Kind) -> int:
        """How many records of these kinds there are; without a kind, of all."""
        return sum(len(self._tables[kind]) for kind in kinds or self._tables)

    def vms(self) -> set[VmId]:
        """Every VM that anything is known of."""
        tables = (Kind.VM_SPEC, Kind.CLAIM, Kind.VM_STATUS, Kind.HALT)
        return {VmId(*names) for kind in tables for names in self._tables[kind]}

    def specs(self) -> Iterator[tuple[VmId, Seen[VmSpec]]]:
        for names, found in self._tables[Kind.VM_SPEC].items():
            yield VmId(*names), found

    def claims(self) -> Iterator[tuple[VmId, Seen[Claim]]]:
        for names, found in self._tables[Kind.CLAIM].items():
            yield VmId(*names), found

    def images(self) -> Iterator[tuple[str, Seen[Image]]]:
        for names, found in self._tables[Kind.IMAGE].items():
            yield names[0], found

    def volumes(self) -> Iterator[tuple[tuple[str, str], Seen[Volume]]]:
        for names, found in self._tables[Kind.VOLUME].items():
            yield (names[0], names[1]), found

    def revisions(self) -> dict[ParsedKey, int]:
        """Every record in it, and the revision that it is of."""
        return {
            ParsedKey(kind, names): mod_of(found)
            for kind, table in self._tables.items()
            for names, found in table.items()
        }

    def nodes(self) -> list[str]:
        """Every node that joined or is alive, sorted."""
        return sorted({names[0] for kind in (Kind.NODE_FACTS, Kind.NODE_ALIVE) for names in self._tables[kind]})


def wants_on(world: ClusterState, vm: VmId) -> bool:
    """True when the spec asks for the VM to run and its guest has not switched itself off in this run."""
    return wanted(world.spec(vm), world.halt(vm))


def wanted(found: Seen[VmSpec] | None, halt: Seen[Halt] | None) -> bool:
    """The same of a spec and a halt that were looked up already."""
    if found is None or found.record is None or found.record.power != "on":
        return False
    return halt is None or not is_halted(found.record, halt.record)
