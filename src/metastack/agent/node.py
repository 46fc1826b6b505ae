"""A node: everything that its parts share. No behaviour of its own beyond commits and lookups."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from .. import __version__
from ..core import changes
from ..core.change import Change, Committed
from ..core.keys import Keys, ParsedKey
from ..core.model import Event, NodeAlive, Record, VmId
from ..core.placement import Board, NodeView, node_views, promised, successors
from ..core.restored import held
from ..core.world import World, wants_on
from ..ports import HostFacts, Hypervisor, Network, Storage, Store, Unavailable
from .clock import Clock
from .memory import Memory
from .mirror import Mirror
from .session import Session

LOST_WAIT_S = 1.0
"""How long news of whoever won are waited for before they are fetched."""


@dataclass
class Node:
    """The shared parts of one agent."""

    name: str
    keys: Keys
    store: Store
    storage: Storage
    hypervisor: Hypervisor
    network: Network
    clock: Clock
    mirror: Mirror
    session: Session
    addresses: tuple[str, ...]
    memory: Memory = field(default_factory=Memory)
    wrote: int = 0
    """Revision of my last change; no view may be older."""
    _held: tuple[int, str] = (-1, "")
    _views: tuple[int, list[NodeView]] = (-1, [])
    _board: Board | None = None

    @property
    def world(self) -> World:
        return self.mirror.world

    async def commit(self, change: Change) -> bool:
        """Commit, then wait until the mirror shows it; False when a guard failed.

        Raises UnknownOutcome (the caller must settle it before it decides anything else), Unavailable.
        """
        floor = self.mirror.past.floor
        outcome = await self.store.commit(change)
        if not self.mirror.past.answered(floor, outcome.revision, outcome.cluster_id):
            raise Unavailable(f"this etcd is not believed: {self.mirror.past.why}")
        if isinstance(outcome, Committed):
            self.wrote = max(self.wrote, outcome.revision)
            await self.mirror.reached(outcome.revision)
            return True
        try:
            await self.mirror.reached(outcome.revision, LOST_WAIT_S)
        except Unavailable:
            # In an etcd that others use too, that revision may be theirs: no event of ours will bring it.
            await self.mirror.look()
        return False

    async def caught_up(self) -> None:
        """Return when the mirror shows my last change; raises Unavailable while it does not.

        Safety: the wait in :meth:`commit` may end in a time-out although the change is in etcd. Whoever looked
        then would see a claim that I released myself, and boot a VM that another node has by now.
        """
        await self.mirror.reached(self.wrote)

    def disbelieves(self) -> None:
        """This etcd is not the one that this node has seen: nothing may be done by it."""
        self.session.recognised = False
        self.session.lose("etcd is not the one that this node has seen")

    def restarted(self) -> None:
        """Another history begins: numbers of the one before mean nothing, and no session has looked at it."""
        self.wrote = self.session.fenced_through = 0
        self.session.recognised = False
        self._held, self._views, self._board = (-1, ""), (-1, []), None
        self.mirror.restart()

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
        return (changes.event_of(self.keys, self.clock.ms(), self.clock.ident()[:12], record),)

    def views(self) -> list[NodeView]:
        """Every node as placement sees it; computed once a revision."""
        if self._views[0] != self.world.revision:
            self._views = (self.world.revision, node_views(self.world))
        return self._views[1]

    def follow(self, touched: Iterable[ParsedKey]) -> None:
        """The world changed there: the board follows, in an order that does not depend on the process."""
        if self._board is not None:
            self._board.update(sorted(touched, key=lambda key: (key.kind, key.names)))

    @property
    def board(self) -> Board:
        """Every VM in its place and every waiting VM with those who should take it."""
        if self._board is None:
            self._board = Board(self.world)
        return self._board

    def turn(self, vm: VmId) -> int | None:
        """My rank among the nodes that would take this VM; None when I would not."""
        if wants_on(self.world, vm):
            return self.board.turn(vm, self.name, deep=True)
        # One that is not wanted on has to be taken over all the same, to be released.
        order = successors(self.views(), str(vm))
        return order.index(self.name) if self.name in order else None

    def rank_of(self, subject: str) -> int | None:
        """My rank for a job that only one node needs to do."""
        order = successors(self.views(), subject)
        return order.index(self.name) if self.name in order else None

    def ready_nodes(self) -> int:
        """How many nodes could do a job that only one needs to do."""
        return len(successors(self.views(), ""))


def describe(
    *,
    name: str,
    facts: HostFacts,
    world: World,
    address: str,
    storage_address: str,
    console: str,
    storage: str,
    bridges: tuple[str, ...],
    since: str,
    message: str,
    brake: str = "",
    fence_failures: dict[str, str] | None = None,
    warnings: tuple[str, ...] = (),
) -> NodeAlive:
    """The node's published state, from what is known right now."""
    taken = promised(world).get(name)
    return NodeAlive(
        name=name,
        since=since,
        address=address,
        storage_address=storage_address,
        console=console,
        capacity=facts.capacity,
        allocated=taken or type(facts.capacity)(),
        vms=sum(1 for _, claim in world.claims() if claim.record is not None and claim.record.node == name),
        hypervisor=facts.hypervisor,
        hypervisor_why=facts.hypervisor_why,
        storage=storage,
        bridges=bridges,
        versions={**facts.versions, "metastack": __version__},
        message=message,
        brake=brake,
        fence_failures=fence_failures or {},
        warnings=warnings,
    )
