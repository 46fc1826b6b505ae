"""The schedule: places for VMs that will wait together, chosen for all of them at once.

Owns: what a scheduler knows better than nodes that take one VM after the other. A scheduler knows the next VMs
before they wait: a node is lost and not fenced yet, a node drains, a VM starts after others. So all of these
can be fitted in as one batch, the largest first, instead of in the order of the line.
Refuses: filters and scores of its own. Every place is one that the nodes' engine would take, and a schedule is
what that engine answers when it is told the hints.
Rule: a VM that would have a place without the schedule has one with it; and what a node is about to take is
left alone, for a hint that comes after the claim was sent only costs a race.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from ..model import Hint, Resources, VmId, VmSpec, Weights
from ..state.cluster_state import ClusterState
from .engine import PlacementEngine
from .hypothetical import suppose, without_nodes
from .objective import Objective, aim, quality
from .pending_queue import PendingVm

BY: Final = "scheduler/"
"""How the author of a scheduler's hint begins. What others hint is left as it is."""
_PASSES: Final = 3
"""How often those that found no place are tried again: a VM may have to be near to one that came later."""
_PACKED: Final = Weights(spread=0.0, pack=1.0)
"""Leaves the largest gaps, where the largest VMs go."""


class Schedule(Struct, frozen=True, kw_only=True):
    """Where a scheduler would put VMs."""

    places: dict[VmId, str]
    """Node by VM: what to hint. Empty: the nodes choose as well alone."""
    why: str
    """What is gained, for the log."""
    ahead: int
    """VMs that were looked at."""


class _Answer(Struct):
    """What the engine says under some hints."""

    places: dict[VmId, str]
    quality: Objective

    def better_than(self, other: _Answer) -> bool:
        if len(self.places) != len(other.places):
            return len(self.places) > len(other.places)
        return self.quality.better_than(other.quality)


class _Batch:
    """An engine on which the VMs ahead are placed together."""

    def __init__(self, engine: PlacementEngine) -> None:
        self.engine = engine

    def rank_as(self, engine: PlacementEngine) -> None:
        """Nodes that do not answer come last here, too."""
        if engine.misses.count:
            self.engine.rank_by(self.engine.weights, copy.deepcopy(engine.misses))
            self.engine.assign_all()

    def told(self, world: ClusterState) -> _Batch:
        """The same in that world, which differs from its own by hints only."""
        other = without_nodes(self.engine, ())
        other.world = world
        other.assign_all()
        return _Batch(other)

    def fitted(self, ahead: list[PendingVm], weights: Weights) -> dict[VmId, str]:
        """Everybody ahead, the most important first, and the largest of them: where each would go."""
        other, found = without_nodes(self.engine, ()), dict[VmId, str]()
        other.rank_by(weights, other.misses)
        for wait in ahead:
            other.take_back(wait.vm)
        largest = self._largest()
        left = sorted(ahead, key=lambda one: (one.line[0], -_size(one.spec, largest), one.line))
        for _ in range(_PASSES):
            again: list[PendingVm] = []
            for wait in left:
                head = other.head(wait.spec, 1)
                if head:
                    other.place(wait.vm, wait.spec, head[0])
                    found[wait.vm] = head[0]
                else:
                    again.append(wait)
            if not again or len(again) == len(left):
                break
            left = again
        return found

    def _largest(self) -> Resources:
        """The most that a node has of each, to measure VMs by."""
        rooms = [view.room for view in self.engine.nodes.values()]
        return Resources(
            cpus=max((room.cpus for room in rooms), default=0.0),
            memory_mib=max((room.memory_mib for room in rooms), default=0),
        )

    def answer(self, ahead: list[PendingVm]) -> _Answer:
        heads = {wait.vm: self.engine.waiting[wait.vm].head for wait in ahead}
        places = {vm: head[0] for vm, head in heads.items() if head}
        return _Answer(places, quality(self.engine.nodes.values(), self.engine.world.config.weights))


def _size(spec: VmSpec, largest: Resources) -> float:
    """Of the largest node, of what the VM takes most of."""
    cpu = spec.cpus / largest.cpus if largest.cpus else 0.0
    return max(cpu, spec.memory_mib / largest.memory_mib if largest.memory_mib else 0.0)


def losing(world: ClusterState) -> frozenset[str]:
    """Nodes whose VMs will soon wait: those that are lost and not fenced yet; without any, those that drain."""
    owners = {claim.record.node for _, claim in world.claims() if claim.record is not None}
    lost = frozenset(node for node in owners if world.alive(node) is None and world.unfenced(node))
    return lost or frozenset(node for node in owners if _drains(world, node))


def _drains(world: ClusterState, node: str) -> bool:
    found = world.node_spec(node)
    return found is not None and found.record is not None and found.record.draining


def schedule(engine: PlacementEngine, standing: Mapping[VmId, str]) -> Schedule:
    """What to hint now. ``engine`` follows the world; ``standing`` is what was hinted before.

    Deterministic: the same world and standing hints give the same schedule.
    """
    world = engine.world
    taking = {vm: wait.head[0] for vm, wait in engine.waiting.items() if wait.head}
    others = ((vm, hint.record) for vm, hint in world.hints())
    fixed = {vm: hint.node for vm, hint in others if hint is not None and not hint.by.startswith(BY)} | taking
    lost = losing(world)
    if not lost and len(taking) == len(engine.waiting):
        return Schedule(places={}, why="", ahead=0)
    base = _Batch(suppose(world.with_hints(_hints(world, fixed)), lost))
    base.rank_as(engine)
    # A pin leaves nothing to say.
    choosing = [w for vm, w in base.engine.waiting.items() if vm not in fixed and not w.spec.placement.node]
    ahead = sorted(choosing, key=lambda one: one.line)
    if not ahead:
        return Schedule(places={}, why="", ahead=0)
    alone = base.answer(ahead)
    best, places = alone, dict[VmId, str]()
    kept = {wait.vm: standing[wait.vm] for wait in ahead if wait.vm in standing}
    for tried in _attempts(base, ahead, alone, kept):
        told = base.told(world.with_hints(_hints(world, {**fixed, **tried}))).answer(ahead)
        if told.places.keys() >= alone.places.keys() and told.better_than(best):
            best, places = told, told.places
    return Schedule(places=places, why=_gain(alone, best) if places else "", ahead=len(ahead))


def _attempts(
    base: _Batch, ahead: list[PendingVm], alone: _Answer, kept: dict[VmId, str]
) -> list[dict[VmId, str]]:
    """What might be better than leaving it to the nodes; what was said before comes first, and so stays."""
    weights = base.engine.weights
    found = [kept] if kept else []
    found.append(base.fitted(ahead, weights))
    if len(alone.places) < len(ahead) and aim(weights) != "pack":
        found.append(base.fitted(ahead, _PACKED))
    return found


def _hints(world: ClusterState, places: Mapping[VmId, str]) -> dict[VmId, Hint]:
    hints: dict[VmId, Hint] = {}
    for vm, node in places.items():
        found = world.spec(vm)
        if found is not None and found.record is not None:
            hints[vm] = Hint(uuid=found.record.uuid, node=node)
    return hints


def _gain(alone: _Answer, best: _Answer) -> str:
    more = len(best.places) - len(alone.places)
    if more:
        return f"{more} more VMs fit"
    if best.quality.aim == "pack":
        return f"{best.quality.empty_nodes} empty nodes instead of {alone.quality.empty_nodes}"
    return f"used shares differ by {best.quality.stdev_share:.3f} instead of {alone.quality.stdev_share:.3f}"
