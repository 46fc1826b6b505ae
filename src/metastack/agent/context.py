"""The agent's context: everything that its parts share. No behaviour of its own beyond commits and lookups."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field

import structlog

from ..core.domains import Domain
from ..core.model import Event, Record, Resources, Trashed, VmId, VmSpec
from ..core.placement import PlacementEngine, Successors
from ..core.placement.nodes import plus
from ..core.plan import HostStop
from ..core.protocol import claims
from ..core.protocol.group_versions import GroupVersions
from ..core.protocol.restored import held
from ..core.protocol.rule_versions import RULE_VERSION, RuleVersions, heeded
from ..core.state.cluster_state import ClusterState, wants_on
from ..core.state.keys import Keys, ParsedKey, about_nodes
from ..core.state.storage_identity import cluster_id
from ..core.transaction import Committed, Transaction
from ..ports import Hypervisor, Mark, Network, Storage, Store, Unavailable
from .cache.informer import Informer
from .cache.lag import Lag
from .clock import Clock
from .reconcile.turns import ClaimTurn, ClaimTurns
from .reconcile.vm_memory import VmMemories
from .reconcile.volume_index import VolumeIndex
from .session.session import Session

log = structlog.get_logger()

LOST_WAIT_S = 1.0
"""Wait for the event that tells who won a claim, before the claim is read, seconds."""


@dataclass
class AgentContext:
    """The shared parts of one agent."""

    name: str
    keys: Keys
    store: Store
    storage: Storage
    hypervisor: Hypervisor
    network: Network
    clock: Clock
    informer: Informer
    session: Session
    addresses: tuple[str, ...]
    boot_id: str = ""
    memory: VmMemories = field(default_factory=VmMemories)
    lag: Lag = field(default_factory=Lag)
    leave_reason: Callable[[VmId, tuple[Domain, ...]], str] = lambda _vm, _domains: ""
    """Why a VM is to be stopped and released now; empty: it stays. Set by the agent."""
    host_stop: Callable[[VmId], HostStop | None] = lambda _vm: None
    """What becomes of a VM because this host shuts down; None: it does not. Set by the agent."""
    host_stops: Callable[[], str] = str
    """That this host shuts down, as it is announced; empty: it does not. Set by the agent."""
    guest_ready: Callable[[VmSpec, int, int], bool] = lambda _spec, _epoch, _run: False
    """Whether the guest of that epoch and run answers on its ready port. Set by the agent."""
    keys_refused: Callable[[], Awaitable[bool]] | None = None
    """Read the storage's keys again; true: a refused start is worth another try. Set by the agent."""
    suspect: Callable[[str, str], None] = lambda _node, _why: None
    """Told of a lost node that has a disk open, and why that matters: it is to be fenced. Set by the agent."""
    wrote: int = 0
    """Revision of this node's last change; no view may be older."""
    missed_changes: list[tuple[Transaction, int]] = field(default_factory=list)
    """Changes of this node, and their revisions, of which the watch did not tell although it is past them."""
    _held: tuple[int, str] = (-1, "")
    _turns: ClaimTurns | None = None
    _disks: VolumeIndex | None = None
    _successors: Successors | None = None
    _nodes_moved: bool = False
    """Since the successors were looked at."""

    @property
    def world(self) -> ClusterState:
        return self.informer.world

    async def commit(self, change: Transaction) -> bool:
        """Commit, then wait until the informer shows it; False when a guard failed.

        Raises UnknownOutcome (the caller must settle it before it decides anything else), Unavailable.
        """
        floor = self.informer.etcd_history.floor
        outcome = await self.store.commit(change)
        if not self.informer.etcd_history.answered(floor, outcome.revision, outcome.cluster_id):
            raise Unavailable(f"this etcd is rejected: {self.informer.etcd_history.doubt}")
        if isinstance(outcome, Committed):
            self.wrote = max(self.wrote, outcome.revision)
            loop = asyncio.get_running_loop()
            replied_s = loop.time()
            try:
                await self.informer.reached(outcome.revision)
            finally:
                self.lag.note(loop.time(), loop.time() - replied_s)
            if self.informer.etcd_history.history != floor.history:
                # It happened in a history that is over: no view of this one will ever have it.
                raise Unavailable(f"this etcd is rejected: {self.informer.etcd_history.doubt}")
            if key := self.world.lacks(change, outcome.revision):
                # Safety: what a claimer proves of itself it proves from its own claims.
                log.warning("watch_lost_events", node=self.name, change=change.name, key=key)
                self.missed_changes.append((change, outcome.revision))
                await self.caught_up()
            return True
        try:
            await self.informer.reached(outcome.revision, LOST_WAIT_S)
        except Unavailable:
            # In an etcd that others use too, that revision may be theirs: no event of ours will bring it.
            await self.informer.look()
        return False

    async def caught_up(self) -> None:
        """Return when the informer shows this node's last change; raises Unavailable while it does not.

        Safety: the wait in :meth:`commit` may end in a time-out although the change is in etcd. A worker that
        looked then would see a claim that this node released itself, and boot a VM that another node owns by
        now.
        """
        await self.informer.reached(self.wrote)
        if self.missed_changes:
            await self.informer.look()
            self.missed_changes = [one for one in self.missed_changes if self.world.lacks(*one)]
            if self.missed_changes:
                raise Unavailable("this node's view still lacks a change of its own")

    def on_etcd_untrusted(self) -> None:
        """This etcd is not the one that this node has seen: nothing may be done by it."""
        self.session.etcd_recognised = False
        self.session.lose("etcd is not the one that this node has seen")

    def on_history_restarted(self) -> None:
        """Another history begins: numbers of the one before mean nothing, and no session has looked at it."""
        self.wrote = self.session.fenced_through = 0
        self.missed_changes.clear()
        self.session.etcd_recognised = False
        self._held, self._turns, self._disks, self._successors = (-1, ""), None, None, None
        self.informer.restart()

    def held(self) -> str:
        """Why nothing is started that does not run already; computed once a revision."""
        if self._held[0] != self.world.revision:
            self._held = (self.world.revision, held(self.world))
        return self._held[1]

    def event(self, what: str, subject: str, message: str = "") -> Iterable[tuple[str, Record]]:
        """An event of this node, to ride along in a change."""
        record = Event(
            at=self.clock.stamp(), by=f"node/{self.name}", what=what, object=subject, message=message
        )
        return (claims.event_of(self.keys, self.clock.ms(), self.clock.ident()[:12], record),)

    def mark(self, kind: str, uuid: str) -> Mark:
        """What an object of this cluster bears."""
        return Mark(cluster=cluster_id(self.world), kind=kind, record=uuid)

    @staticmethod
    def mark_of(record: Trashed) -> Mark:
        """What a disk bore when it was moved to the trash."""
        return Mark(cluster=record.cluster_id, kind="disk", record=record.uuid)

    def follow(self, touched: Sequence[ParsedKey]) -> None:
        """The world changed there, in an order that does not depend on the process: the engine follows."""
        self._nodes_moved = self._nodes_moved or about_nodes(touched)
        if self._turns is not None:
            self._turns.update(touched)
        if self._disks is not None:
            self._disks.update(touched)

    @property
    def disks(self) -> VolumeIndex:
        """Disk records by VM and by UUID."""
        if self._disks is None:
            self._disks = VolumeIndex(self.world)
        return self._disks

    @property
    def engine(self) -> PlacementEngine:
        """Every VM in its place and every waiting VM with the nodes that should take it."""
        return self.turns.engine

    @property
    def turns(self) -> ClaimTurns:
        """When it is this node's turn to take which pending VM."""
        if self._turns is None:
            self._turns = ClaimTurns(self.world, self.name, asyncio.get_running_loop().time)
        return self._turns

    def turn(self, vm: VmId) -> ClaimTurn | None:
        """When it is this node's turn to take this VM; None when it would not take it."""
        if wants_on(self.world, vm):
            return self.turns.mine(vm)
        # One that is not wanted on has to be taken over all the same, to be released.
        rank, memory = self.rank_of(str(vm)), self.memory.of(vm)
        now_s = asyncio.get_running_loop().time()
        if rank != memory.rank:
            memory.rank, memory.rank_since_s = rank, now_s
        if rank is None:
            return None
        return ClaimTurn(rank, rank * self.world.config.rank_delay_ms / 1000, now_s - memory.rank_since_s)

    def group_versions(self, spec: VmSpec) -> GroupVersions:
        """What this node's claim of that VM has to compare and change, for the group rules that it concerns."""
        world = self.world
        return [
            (self.keys.group(spec.project, group, domain), world.group(spec.project, group, domain))
            for group, domain in self.engine.group_versions(spec, self.name)
        ]

    def rule_versions(self, spec: VmSpec) -> RuleVersions:
        """What a claim of that VM has to compare, so that no group rule that it bears on came meanwhile."""
        keys, world = self.keys, self.world
        return [
            (keys.group(spec.project, group, RULE_VERSION), world.group(spec.project, group, RULE_VERSION))
            for group in heeded(spec)
        ]

    def rank_of(self, subject: str) -> int | None:
        """This node's rank for a job that only one node needs to do."""
        return self.successors.rank(subject, self.name)

    @property
    def successors(self) -> Successors:
        """Nodes that could do a job that only one needs to do."""
        if self._successors is None or self._nodes_moved:
            fresh = Successors(self.engine.nodes.values())
            if self._successors is None or fresh.ready != self._successors.ready:
                self._successors = fresh
            self._nodes_moved = False
        return self._successors

    def allocated(self) -> tuple[Resources, int]:
        """What the VMs that this node owns have been promised together, and how many they are."""
        specs = self.engine.specs_on(self.name)
        sum_ = Resources()
        for spec in specs:
            sum_ = plus(sum_, spec)
        return sum_, len(specs)
