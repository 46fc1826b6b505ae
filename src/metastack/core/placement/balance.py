"""Balance: which running VMs should move so that all places together are better, one move after the other.

Owns: the plan. Refuses: moving anything (that comes with live migration), and filters and scores of its own:
every move is one that the nodes' engine would take at that moment, with all moves before it done.
Rule: each move makes the VM's own place better by at least the least gain, and all places together better too;
a VM moves once; a pinned one never; and no hard group rule that holds is broken, whoever's it is.

The aim is the weights': ``spread`` takes from the fullest nodes until their used shares are even; ``pack``
empties whole nodes, the emptiest first, and starts none that it cannot finish.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from math import fsum
from typing import Final

import msgspec
from msgspec import Struct

from ..model import Phase, Resources, VmId, VmSpec
from ..state.cluster_state import ClusterState, wants_on
from . import filters
from .engine import HEAD, PlacementEngine
from .explain import score
from .groups import group_of, terms
from .hypothetical import suppose
from .nodes import NodeView, plus
from .objective import Objective, aim, empty, quality, share, takes

MOST_MOVES: Final = 1000
_FULLEST: Final = 8
"""Number of the fullest nodes among which the best move is sought first."""
_LEAST_DROP: Final = 1e-9
"""Sums of floats must not pass for a gain."""


class BalanceMove(Struct, frozen=True, kw_only=True):
    """One VM to another node."""

    vm: VmId
    before: str
    after: str
    score_before: float
    """What its node is worth to it now, by the nodes' own score."""
    score_after: float
    """What the other one is, with every earlier move done."""
    imbalance_before: float
    """Standard deviation of the used share before this move ..."""
    imbalance_after: float
    """... and after it."""
    empties: str = ""
    """Node that this move helps to empty, under ``pack``."""

    @property
    def gain(self) -> float:
        return round(self.score_after - self.score_before, 6)


class Balance(Struct, frozen=True, kw_only=True):
    """A plan."""

    moves: tuple[BalanceMove, ...]
    before: Objective
    after: Objective
    stays: dict[str, int]
    """VMs that no plan may move, by the reason."""
    bounded: bool
    """More moves would gain something; they were not asked for."""


def balance(world: ClusterState, *, max_moves: int, min_gain: float) -> Balance:
    """The moves that gain most, in the order in which they are to be made; the same for the same world.

    ``min_gain`` is in scores, as :func:`~.explain.explain` gives them. Hints are not looked at: they are for
    VMs that wait.
    """
    engine = _Moving(suppose(world.with_hints({})))
    before, weights = engine.quality(), engine.engine.weights
    search = engine.emptying if aim(weights) == "pack" else engine.evening
    moves: list[BalanceMove] = []
    while steps := search(min_gain, max_moves - len(moves)):
        moves += steps
        engine.settle()
    return Balance(
        moves=tuple(moves), before=before, after=engine.quality(), stays=engine.stays, bounded=engine.more
    )


class _Moving:
    """The search for moves."""

    def __init__(self, engine: PlacementEngine) -> None:
        self.engine = engine
        self.moved: set[VmId] = set()
        self.emptied: set[str] = set()
        self.more = False
        """There would be more to gain than may be moved."""
        self._stuck: set[str] = set()
        """Nodes that cannot be emptied; what was moved since has not freed enough capacity."""
        self.stays: dict[str, int] = {}
        self._movable: dict[str, list[tuple[VmId, VmSpec]]] = {}
        for name in sorted(engine.nodes):
            there = [(vm, self._may_move(vm, engine.nodes[name])) for vm in engine.on(name)]
            self._movable[name] = [(vm, spec) for vm, spec in there if spec is not None]
        self._others: dict[str, list[VmSpec]] = {}
        """By project, VMs with hard group rules: whom a move may not hurt."""
        for vm, found in sorted(engine.world.specs(), key=lambda one: one[0]):
            if found.record is not None and any(term.required for term in terms(found.record)):
                self._others.setdefault(vm.project, []).append(found.record)

    def quality(self) -> Objective:
        return quality(self.engine.nodes.values(), self.engine.weights)

    def _may_move(self, vm: VmId, node: NodeView) -> VmSpec | None:
        world = self.engine.world
        found, claim, status = world.spec(vm), world.claim(vm), world.status(vm)
        spec = found.record if found is not None else None
        if not takes(node) or spec is None or claim is None or claim.record is None or not wants_on(world, vm):
            return None
        phase = status.record.phase if status is not None and status.record is not None else None
        why = ""
        if claim.record.uuid != spec.uuid:
            why = "is being recreated"
        elif spec.placement.node:
            why = "pinned"
        elif phase is not Phase.RUNNING:
            why = "is not running"
        if why:
            self.stays[why] = self.stays.get(why, 0) + 1
            return None
        return spec

    def settle(self) -> None:
        """VMs that nobody would take may fit where capacity has come free: the next move finds them there."""
        self.engine.settle()

    # --- one step

    def _move(self, vm: VmId, spec: VmSpec, before: str, after: str, empties: str = "") -> BalanceMove:
        """Make a move on the engine, and tell of it."""
        engine, uneven = self.engine, self.quality().stdev_share
        back = engine.without(vm)
        there, here = score(engine, spec, engine.nodes[after]), score(engine, spec, engine.nodes[before])
        back()
        self._carry(vm, spec, after)
        return BalanceMove(
            vm=vm, before=before, after=after, score_before=here, score_after=there,
            imbalance_before=uneven, imbalance_after=self.quality().stdev_share, empties=empties,
        )  # fmt: skip

    def _carry(self, vm: VmId, spec: VmSpec, node: str) -> None:
        self.engine.carry(vm, spec, node)

    def _better(self, vm: VmId, spec: VmSpec, here: str, min_gain: float) -> list[str]:
        """Nodes that would take the VM now and are worth more to it than its own, best first."""
        engine = self.engine
        back = engine.without(vm)
        try:
            least = score(engine, spec, engine.nodes[here]) + max(min_gain, _LEAST_DROP)
            reluctant = filters.reluctant(spec, engine.nodes[here])
            return [
                name
                for name in engine.head(spec, HEAD)
                if name != here
                and score(engine, spec, engine.nodes[name]) >= least
                and (reluctant or not filters.reluctant(spec, engine.nodes[name]))
            ]
        finally:
            back()

    def _hurts(self, vm: VmId, spec: VmSpec, after: str) -> bool:
        """The move would break a hard group rule of another VM that holds now."""
        near = [
            other
            for other in self._others.get(spec.project, ())
            if other.id != vm and any(t.required and group_of(other, t).holds(spec) for t in terms(other))
        ]
        if not near:
            return False
        before, was = self.engine.placed_on(vm), [self._broken(other) for other in near]
        self._carry(vm, spec, after)
        try:
            return any(self._broken(other) and not old for other, old in zip(near, was, strict=True))
        finally:
            self._carry(vm, spec, before)

    def _broken(self, other: VmSpec) -> bool:
        """A hard group rule would keep that VM off the node where it is."""
        engine, node = self.engine, self.engine.placed_on(other.id)
        view = engine.nodes.get(node)
        if view is None:
            return False
        back = engine.without(other.id)
        try:
            return bool(engine.groups.refusals(other, view))
        finally:
            back()

    # --- spread

    def evening(self, min_gain: float, left: int) -> list[BalanceMove]:
        """The move that evens out most; none when none does, or none may be made."""
        views = [view for view in self.engine.nodes.values() if takes(view)]
        fullest = sorted(views, key=lambda view: (-share(view), view.name))
        for at in range(0, len(fullest), _FULLEST):
            found = sorted(self._evening_of(fullest[at : at + _FULLEST], min_gain, len(views)))
            for _, vm, before, after in found:
                spec = self._spec(vm)
                if not self._hurts(vm, spec, after):
                    if left < 1:
                        self.more = True
                        return []
                    self.moved.add(vm)
                    return [self._move(vm, spec, before, after)]
        return []

    def _evening_of(
        self, sources: list[NodeView], min_gain: float, nodes: int
    ) -> Iterator[tuple[float, VmId, str, str]]:
        """Moves away from these that make the sum of squared deviations smaller: (minus how much, ...)."""
        mean = fsum(share(view) for view in self.engine.nodes.values() if takes(view)) / nodes
        for source in sources:
            for vm, spec in self._movable[source.name]:
                if vm in self.moved:
                    continue
                for name in self._better(vm, spec, source.name, min_gain):
                    drop = _drop(mean, nodes, source, self.engine.nodes[name], spec)
                    if drop > _LEAST_DROP:
                        yield -drop, vm, source.name, name

    def _spec(self, vm: VmId) -> VmSpec:
        found = self.engine.world.spec(vm)
        assert found is not None
        return found.ok

    # --- pack

    def emptying(self, min_gain: float, left: int) -> list[BalanceMove]:
        """All moves that empty one more node, the emptiest that can be; none if ``left`` moves are too few."""
        held = Counter(node for _, node in self.engine.placed_specs())
        views = [view for view in self.engine.nodes.values() if takes(view) and not empty(view)]
        for view in sorted(views, key=lambda one: (share(one), one.name)):
            there = [(vm, spec) for vm, spec in self._movable[view.name] if vm not in self.moved]
            if view.name in self._stuck or not there or len(there) < held[view.name]:
                continue
            if len(there) > left and self.more:
                continue
            found = self._emptied(view.name, there, min_gain)
            if not found:
                self._stuck.add(view.name)
            elif len(found) > left:
                self.more = True
            else:
                self.moved |= {vm for vm, _, _ in found}
                self.emptied.add(view.name)
                return [self._move(vm, spec, view.name, to, empties=view.name) for vm, spec, to in found]
        return []

    def _emptied(
        self, node: str, there: list[tuple[VmId, VmSpec]], min_gain: float
    ) -> list[tuple[VmId, VmSpec, str]]:
        """Where each VM of the node would go, the largest first; none when one of them would stay."""
        found: list[tuple[VmId, VmSpec, str]] = []
        nothing = msgspec.structs.replace(self.engine.nodes[node], promised=Resources())
        for vm, spec in sorted(there, key=lambda one: (-share(_with(nothing, one[1], 1)), one[0])):
            better = [name for name in self._better(vm, spec, node, min_gain) if self._used(name)]
            target = next((name for name in better if not self._hurts(vm, spec, name)), "")
            if not target:
                break
            found.append((vm, spec, target))
            self._carry(vm, spec, target)
        for vm, spec, _ in reversed(found):
            self._carry(vm, spec, node)
        return found if len(found) == len(there) else []

    def _used(self, node: str) -> bool:
        """A node that is to stay full: neither empty nor being emptied."""
        return node not in self.emptied and not empty(self.engine.nodes[node])


def _drop(mean: float, nodes: int, source: NodeView, target: NodeView, spec: VmSpec) -> float:
    """How much smaller the sum of squared deviations of the used shares is after the move."""
    a, b = share(source), share(target)
    a_after, b_after = share(_with(source, spec, -1)), share(_with(target, spec, 1))
    moved = (a_after + b_after - a - b) / nodes
    """By how much the mean moves, on nodes of different sizes."""
    squares = a * a + b * b - a_after * a_after - b_after * b_after
    # sum((x - m)^2) = sum(x^2) - n m^2
    return squares + nodes * ((mean + moved) ** 2 - mean**2)


def _with(view: NodeView, spec: VmSpec, sign: int) -> NodeView:
    return NodeView(name=view.name, room=view.room, promised=plus(view.promised, spec, sign))
