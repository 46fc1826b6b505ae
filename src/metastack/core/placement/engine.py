"""The placement engine: each VM in its place, each pending VM with its ranking of nodes, event by event.

Owns: virtual assignments, the order in which nodes try, and misses. Every agent keeps one; CLI and
scheduler make one from a snapshot and ask it the same questions.
Refuses: clocks and randomness: two agents that saw the same events compute the same ranking.
Rule: each pending VM is assigned, in the order of the line, to its best node given all VMs before it. It keeps
that node until it is claimed or the node cannot take it any more. So a burst spreads as a central scheduler
would spread it, and one event costs what changed, not what there is.

An engine is about efficiency, never about safety: an agent whose engine is behind loses a race for a claim, and
the node that claims looks again at whether the VM still fits.
"""

from __future__ import annotations

import copy
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from operator import itemgetter
from typing import Protocol

import msgspec

from ..model import Claim, NodeState, VmId, VmSpec, Weights
from ..state.cluster_state import ClusterState, Seen, wanted
from ..state.keys import Kind, ParsedKey
from . import filters
from .delays import delay_ms
from .groups import Groups
from .misses import Misses
from .node_order import NodeOrder, shape_of
from .nodes import NodeView, join, node_view, plus
from .penalties import Penalties
from .pending_queue import Line, PendingVm
from .preferences import hinted, preference
from .scores import SOON_MS
from .start_order import owned, start_gate

HEAD = 8
"""Number of nodes that stand ready for each pending VM; the others come after them and are ranked only then."""
_SHAPES = 32
"""Orders kept at a time: VMs come in few sizes."""


class Follower(Protocol):
    """Told of every step of one engine: a node's claim turns."""

    def assigned(self, wait: PendingVm, missed: bool) -> None:
        """The VM has its nodes, or none. ``missed``: some node missed its turn."""

    def claimed(self, vm: VmId, node: str, waited: bool) -> None:
        """A session of that node owns the VM; ``waited``: it was pending until now."""

    def withdrawn(self, vm: VmId) -> None:
        """The VM is neither owned nor pending."""


def _shape(spec: VmSpec) -> tuple[object, ...]:
    """What placement may read of a spec: neither names nor what was said about the last change."""
    return (
        *(spec.project, spec.image_uuid, spec.cpus, spec.memory_mib, spec.disk_bytes, spec.power, spec.run),
        *(spec.labels, spec.resources, spec.placement, spec.ha, [nic.bridge for nic in spec.nics]),
    )


class PlacementEngine:
    """Placement at the world's revision; :meth:`update` after every change of it."""

    def __init__(
        self,
        world: ClusterState,
        lost: frozenset[str] = frozenset(),
        more: Iterable[NodeView] = (),
        *,
        supposed: bool = False,
        follower: Follower | None = None,
    ) -> None:
        """``lost``: nodes to think away, with what runs on them; ``more``: nodes to think of.

        ``supposed``: the question is whether there is capacity. No VM waits for another to start, and a VM that
        is to be released is nowhere.
        """
        self.world = world
        self._lost, self._more = lost, tuple(more)
        self._supposed, self._follower = supposed, follower
        self.misses = Misses(len(world.nodes()))
        self._rebuild()

    # --- following the world

    def _rebuild(self) -> None:
        world = self.world
        self.weights: Weights = world.config.weights
        self.nodes: dict[str, NodeView] = {name: self._view(name) for name in world.nodes()}
        self.nodes |= {view.name: msgspec.structs.replace(view) for view in self._more}
        self.groups = Groups(self.nodes)
        self.penalties = Penalties(world)
        self._orders: dict[object, NodeOrder] = {}
        self._placed: dict[VmId, tuple[str, VmSpec]] = {}
        """Real and virtual assignments."""
        self._on: dict[str, set[VmId]] = {}
        """VMs claimed by each node."""
        self._after: dict[VmId, set[VmId]] = {}
        """VMs that start after a VM."""
        self.waiting: dict[VmId, PendingVm] = {}
        self._line: list[Line] = []
        self._nowhere: set[object] = set()
        self._doubtful: dict[VmId, None] = {}
        """VMs that may not be able to stay with the node that they were promised to."""
        self._first_open: Line | None = None
        self._grown = self._joined = self._following = False
        for vm, _ in world.specs():
            self._see(vm)
        self._following = True
        self.settle()

    def _view(self, name: str) -> NodeView:
        view = node_view(self.world, name)
        if name in self._lost:
            view.state = NodeState.LOST
        return view

    def update(self, touched: Iterable[ParsedKey]) -> bool:
        """Take in what changed in the world since the last time; true when all was computed again."""
        vms: dict[VmId, None] = {}
        nodes: dict[str, None] = {}
        for key in touched:
            match key.kind:
                case Kind.CLUSTER:
                    self._rebuild()
                    return True
                case Kind.NODE_SPEC | Kind.NODE_ALIVE | Kind.NODE_FACTS:
                    nodes[key.names[0]] = None
                case Kind.FENCE:
                    vms |= dict.fromkeys(sorted(self._on.get(key.names[0], ())))
                case Kind.VM_SPEC | Kind.CLAIM | Kind.HALT | Kind.HINT:
                    vms |= dict.fromkeys([vm := key.vm, *sorted(self._after.get(vm, ()))])
                case Kind.PENALTY:
                    self.penalties.note(key.names)
                    if (wait := self.waiting.get(key.vm)) is not None:
                        self._nowhere.clear()
                        self._reopen(wait.line)
                case Kind.VM_STATUS if key.vm in self._after:
                    vms |= dict.fromkeys(sorted(self._after[key.vm]))
                case _:
                    pass
        if nodes and not self._nodes_changed(nodes):
            self._rebuild()
            return True
        for vm in vms:
            self._see(vm)
        self.settle()
        return False

    def _nodes_changed(self, names: Iterable[str]) -> bool:
        """Take in news of nodes; False when too much is different to go on from here."""
        world = self.world
        for name in names:
            old, new = self.nodes.get(name), self._view(name)
            if (world.facts(name) or world.alive(name)) is None or (old is None and self._on.get(name)):
                return False
            if old is None:  # nothing is on it: a cluster that grows need not count all VMs again
                join(self.nodes, new)
                self._orders.clear()
            else:
                new.promised, new.images = old.promised, old.images
                if new.labels != old.labels:
                    return False  # it is in other domains now
                if old.session != new.session:
                    self.misses.forgive(name)
                    old.session = new.session
                if max(old.lag_ms, new.lag_ms) <= SOON_MS:
                    old.lag_ms = new.lag_ms
                if new == old:
                    continue
                self.nodes[name] = new
                for order in self._orders.values():
                    order.renew(name)
            self._nowhere.clear()
            self._reopen(None)
        return True

    def _see(self, vm: VmId) -> None:
        """Where one VM stands now."""
        world = self.world
        found, claim = world.spec(vm), world.claim(vm)
        if found is None or (spec := found.record) is None:
            self._withdraw(vm)
            self.groups.asks(vm, None, ())
            return
        for name in spec.ha.start_after:
            self._after.setdefault(VmId(vm.project, name), set()).add(vm)
        there = self._there(claim)
        rules = spec if there or wanted(found, world.halt(vm)) else None
        # Safety: also while it is held back (core/protocol/rule_versions).
        self.groups.asks(vm, rules, self.placed_specs())
        if claim is not None and there:
            if claim.record is not None:
                self._claimed(vm, spec, claim.record.node)
            return
        if rules is None:
            self._withdraw(vm)
            return
        line = (-spec.ha.priority, found.mod, vm.project, vm.name)
        wait = self.waiting.get(vm)
        if wait is not None and wait.line == line and not spec.ha.start_after and world.hint(vm) is None:
            return
        self._withdraw(vm)
        self.waiting[vm] = PendingVm(vm, line, spec)
        insort(self._line, line)
        self._reopen(line)

    def _there(self, claim: Seen[Claim] | None) -> bool:
        """A session owns the VM of that claim."""
        if self._supposed and claim is not None and claim.record is not None and claim.record.to_release:
            return False
        return owned(self.world, claim, self._lost)

    def _claimed(self, vm: VmId, spec: VmSpec, node: str) -> None:
        if self._follower is not None:
            self._follower.claimed(vm, node, vm in self.waiting)
        wait = self.waiting.pop(vm, None)
        if wait is not None:
            del self._line[bisect_left(self._line, wait.line)]
        if wait is not None or (self._following and vm not in self._on.get(node, ())):
            # Also a VM that came and was claimed within one batch: a charge ends at one claim for all agents.
            self.misses.won(node, wait.head if wait is not None else ())
        placed = self._placed.get(vm)
        if placed is not None and placed[0] == node and _shape(placed[1]) == _shape(spec):
            # A pause, another reason: nothing that placement reads.
            self._placed[vm] = (node, spec)
        else:
            self.take_back(vm)
            self.place(vm, spec, node)
            self._displace(node, spec)
        self._on.setdefault(node, set()).add(vm if wait is None else wait.vm)

    def _displace(self, node: str, spec: VmSpec) -> None:
        """A VM came there outside the line: a VM that was promised the same capacity goes elsewhere."""
        if node in self.nodes and self.nodes[node].overfull:
            for wait in [wait for wait in self.waiting.values() if wait.head and wait.head[0] == node]:
                self._reopen(wait.line)
        if groups := self.groups.of(spec):
            # Only those that it has to do with: were all sent again, claims on their way would meet new ones.
            self._grown = bool(self.waiting)
            for wait in self.waiting.values():
                if wait.head and not groups.isdisjoint(self.groups.of(wait.spec)):
                    self._doubtful[wait.vm] = None

    def _withdraw(self, vm: VmId) -> None:
        if self._follower is not None:
            self._follower.withdrawn(vm)
        wait = self.waiting.pop(vm, None)
        if wait is not None:
            del self._line[bisect_left(self._line, wait.line)]
        self.take_back(vm)

    # --- loads

    def place(self, vm: VmId, spec: VmSpec, node: str) -> None:
        """Count the VM as on that node."""
        self._placed[vm] = (node, spec)
        self._load(spec, node, 1)

    def take_back(self, vm: VmId) -> None:
        """Count it nowhere."""
        held = self._placed.pop(vm, None)
        if held is None:
            return
        node, spec = held
        self._load(spec, node, -1)
        self.misses.released(node, vm)
        self._on.get(node, set()).discard(vm)
        if self.waiting:
            self._grown = True
            self._joined = self._joined or self.groups.bear_on(spec)

    def _load(self, spec: VmSpec, node: str, sign: int) -> None:
        view = self.nodes.get(node)
        if view is not None:
            view.promised = plus(view.promised, spec, sign)
            if self.weights.image:
                view.images[spec.image_uuid] = view.images.get(spec.image_uuid, 0) + sign
            self._touch(node)
        self.groups.place(spec, node, sign)

    def _touch(self, node: str) -> None:
        for order in self._orders.values():
            order.dirty.add(node)

    # --- the line

    def _reopen(self, line: Line | None) -> None:
        """Assign again from here on; None: all."""
        first = line if line is not None else (self._line[0] if self._line else None)
        if first is not None and (self._first_open is None or first < self._first_open):
            self._first_open = first

    def settle(self) -> None:
        """Assign the VMs that are not, in the order of the line."""
        if self._doubtful:
            doubtful = [self.waiting[vm] for vm in self._doubtful if vm in self.waiting]
            self._doubtful.clear()
            for wait in sorted(doubtful, key=lambda wait: wait.line):
                if wait.head and self.fits(wait.vm, wait.head[0]):
                    wait.head = ()
                    self.take_back(wait.vm)
                    self._assign(wait)
        self._fill()
        if self._first_open is None:
            return self._follow()
        rest = [
            self.waiting[VmId(p, n)] for _, _, p, n in self._line[bisect_left(self._line, self._first_open) :]
        ]
        self._first_open = None
        for wait in rest:
            if wait.head:
                wait.head = ()
                self.take_back(wait.vm)
        self._grown, self._nowhere = False, set()  # what they gave back may be what another needs
        for wait in rest:
            self._assign(wait)
        return self._follow()

    def _fill(self) -> None:
        """More capacity came free: only VMs that no node would take can gain by it."""
        if not self._grown:
            return
        self._grown = False
        self._nowhere.clear()
        for line in self._line:
            wait = self.waiting[VmId(line[2], line[3])]
            if not wait.head:
                self._assign(wait)

    def _follow(self) -> None:
        """A VM that is to be near others, or even with them, goes by where those are to be, also those behind
        it in the line. It may have a place since one of them has one, and none any more since one lost it."""
        for _ in range(len(self.waiting) if self.groups.wide else 0):
            if not self._joined:
                break
            self._joined = False
            places = ((wait, wait.spec.placement) for wait in self.waiting.values())
            for wait in sorted((w for w, p in places if p.affinity or p.spread), key=lambda one: one.line):
                if not wait.head:
                    self._assign(wait)
                elif self.fits(wait.vm, wait.head[0]):
                    wait.head = ()
                    self.take_back(wait.vm)
                    self._assign(wait)
            self._fill()
        self._joined = False

    def _assign(self, wait: PendingVm) -> None:
        self._find_nodes(wait)
        if self._follower is not None:
            self._follower.assigned(wait, bool(self.misses.count))

    def _find_nodes(self, wait: PendingVm) -> None:
        wait.held = "" if self._supposed else start_gate(self.world, wait.vm, wait.spec)
        if wait.held:
            return
        shape = shape_of(wait.spec, self.weights)
        plain = not self.groups.bear_on(wait.spec) and not self.penalties.of(wait.spec)
        if plain and shape in self._nowhere:
            return
        wait.head = tuple(self.head(wait.spec, HEAD))
        if wait.head:
            self.place(wait.vm, wait.spec, wait.head[0])
            self.misses.promised(wait.head[0], wait.vm)
            self._joined = self._joined or not plain
        elif plain:
            # What fits nowhere now fits nowhere further down the line either, as promises only grow: VMs that
            # no node can take must not cost every younger one its time.
            self._nowhere.add(shape)

    # --- orders

    def _order(self, spec: VmSpec) -> NodeOrder:
        shape = shape_of(spec, self.weights)
        order = self._orders.pop(shape, None)
        if order is None:
            order = NodeOrder(spec, self.weights, self.nodes, self.misses)
            if len(self._orders) >= _SHAPES:
                del self._orders[next(iter(self._orders))]
        self._orders[shape] = order  # last used, last dropped
        return order

    def head(self, spec: VmSpec, limit: int) -> list[str]:
        """The nodes that should try to take such a VM, best first, at most ``limit``."""
        if self.misses.news:
            for name in self.misses.news & self.nodes.keys():
                self._touch(name)
            self.misses.news.clear()
        grouped, failed = self.groups.bear_on(spec), self.penalties.of(spec)
        if grouped:
            self.groups.know(spec, self.placed_specs())
        first = hinted(self.world, self.nodes, self.misses, spec) if self.world.count(Kind.HINT) else ""
        own = grouped or self.world.config.weight_last_node
        moved = preference(self.world, self.groups, self.nodes, spec) if own else None
        if not grouped and not failed and not first and moved is None:
            best = self._order(spec).first(spec.uuid, limit)
            if not self.misses.count or self.misses.count.keys().isdisjoint(best[1:]):
                return best
        walk: Iterable[tuple[int, str]] = self._order(spec).walk(spec.uuid)
        if moved is not None:
            # Preferences differ from VM to VM: the whole order is sorted again; what was equal stays as it was.
            walk = sorted(((key - moved(name), name) for key, name in walk), key=itemgetter(0))
        names: Iterable[str] = chain([first] if first else (), (name for _, name in walk if name != first))
        if grouped:
            names = (name for name in names if not self.groups.refusals(spec, self.nodes[name]))
        if failed:
            names = (name for name in names if name not in failed)
        return self.misses.head_of(names, limit)

    # --- suppositions

    def copied(self) -> PlacementEngine:
        """One with the same places, which goes its own way from here."""
        other = copy.copy(self)
        other._follower = None
        other.nodes = {
            name: msgspec.structs.replace(view, images=dict(view.images) if view.images else view.images)
            for name, view in self.nodes.items()
        }
        other.groups = self.groups.over(other.nodes)
        other.waiting = {vm: msgspec.structs.replace(wait) for vm, wait in self.waiting.items()}
        other._line, other._orders, other._nowhere = list(self._line), {}, set()
        other._placed, other._on = dict(self._placed), {name: set(vms) for name, vms in self._on.items()}
        other._first_open = None
        return other

    def lose(self, names: Iterable[str]) -> None:
        """Think these nodes away."""
        self._lost = self._lost | frozenset(names)
        moving = []
        for name in self._lost & self.nodes.keys():
            self.nodes[name].state = NodeState.LOST
            moving += sorted(self._on.get(name, ()))
        for vm in moving:
            self._see(vm)
        self.assign_all()

    def keep_promises(self) -> None:
        """Each pending VM with a place has taken it: what is lost later is lost after that."""
        for wait in [wait for wait in self.waiting.values() if wait.head]:
            del self.waiting[wait.vm]
            self._line.remove(wait.line)
            self._on.setdefault(wait.head[0], set()).add(wait.vm)

    def carry(self, vm: VmId, spec: VmSpec, node: str) -> None:
        """The VM is on that node now."""
        self.take_back(vm)
        self.place(vm, spec, node)
        self._on.setdefault(node, set()).add(vm)

    def rank_by(self, weights: Weights, misses: Misses) -> None:
        """From now on rank nodes by these weights, and by the turns that they missed in another engine."""
        self.weights, self.misses, self._orders = weights, misses, {}

    def assign_all(self) -> None:
        """Assign every pending VM again."""
        self._reopen(None)
        self.settle()

    # --- what is asked

    def placed_specs(self) -> Iterator[tuple[VmSpec, str]]:
        """Every VM that has a place, really or virtually, and its node."""
        return ((spec, node) for node, spec in self._placed.values())

    def placed_on(self, vm: VmId) -> str:
        """Where the VM is, really or virtually; empty: nowhere."""
        held = self._placed.get(vm)
        return held[0] if held is not None else ""

    def on(self, node: str) -> list[VmId]:
        """VMs that a node owns."""
        return sorted(self._on.get(node, ()))

    def specs_on(self, node: str) -> list[VmSpec]:
        """What placement asks for of the VMs that a node owns."""
        return [self._placed[vm][1] for vm in self._on.get(node, ())]

    def without(self, vm: VmId) -> Callable[[], None]:
        """Think a VM away; returns what brings it back."""
        if (wait := self.world.spec(vm)) is not None and wait.record is not None:
            # Before, not while it is away: who is counted then is counted with it.
            self.groups.know(wait.record, self.placed_specs())
        held = self._placed.get(vm)
        if held is None:
            return lambda: None
        node, spec = held
        self._load(spec, node, -1)
        return lambda: self._load(spec, node, 1)

    def turn(self, vm: VmId, me: str, *, deep: bool = False) -> int | None:
        """This node's rank among those who would take the VM; None when it would not, or is behind the head.

        ``deep``: the head has had its time, everybody else comes after it.
        """
        if (wait := self.waiting.get(vm)) is None or wait.held:
            return None
        line = (*wait.head, *self.behind(wait)) if deep and me not in wait.head else wait.head
        return line.index(me) if me in line else None

    def behind(self, wait: PendingVm) -> list[str]:
        """Nodes that take it when the head has had its time, first to last."""
        with_itself = self.without(wait.vm)
        try:
            return [name for name in self.head(wait.spec, len(self.nodes)) if name not in wait.head]
        finally:
            with_itself()

    def delay_ms(self, vm: VmId, rank: int) -> int:
        """How long the node of that rank leaves the VM to those before it (:mod:`.delays`); of those behind the
        head each gets half a rank's delay."""
        step, wait = self.world.config.rank_delay_ms, self.waiting.get(vm)
        if wait is None:
            return step * rank
        before = [self.nodes[name] for name in wait.head[:rank] if name in self.nodes]
        return delay_ms(wait.spec, before, step, self.misses) + step * max(0, rank - len(wait.head)) // 2

    def fits(self, vm: VmId, node: str) -> tuple[str, ...]:
        """Why that node could not take the waiting VM right now; empty: it could."""
        wait, view = self.waiting.get(vm), self.nodes.get(node)
        if wait is None or view is None:
            return ("the VM is not pending",)
        back = self.without(vm)
        try:
            return self.refusals(wait.spec, view)
        finally:
            back()

    def refusals(self, spec: VmSpec, node: NodeView) -> tuple[str, ...]:
        """Every reason of one node, groups included."""
        self.groups.know(spec, self.placed_specs())
        found = filters.refusals(spec, node)
        if node.state is NodeState.LOST:
            return found
        failed = self.penalties.of(spec).get(node.name)
        return (
            found
            + ((filters.penalty_refusal(failed),) if failed is not None else ())
            + self.groups.refusals(spec, node)
        )

    def group_versions(self, spec: VmSpec, node: str) -> list[tuple[str, str]]:
        """(group, domain) whose versions a claim of this VM by that node bears
        (:meth:`.Groups.group_versions`)."""
        view = self.nodes.get(node)
        return self.groups.group_versions(spec, view) if view is not None and self.groups.bear_on(spec) else []
