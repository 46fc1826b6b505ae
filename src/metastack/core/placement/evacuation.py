"""Departures: which VMs should leave a node, in which order, and whether another node would take them.

Owns: the one answer that a draining node acts on and ``node drain --wait`` explains.
Refuses: stopping anything. Rule: a VM that nobody would take stays where it runs.
"""

from __future__ import annotations

from msgspec import Struct

from ..model import PinMove, VmId, VmSpec
from ..state.cluster_state import ClusterState, wants_on
from .engine import PlacementEngine
from .start_order import start_gate


class Departure(Struct, frozen=True, kw_only=True):
    """A VM that should run elsewhere than it does."""

    vm: VmId
    why: str
    """``drain`` or ``move``."""
    to: str
    """The best node that would take it; empty: none would now, and it stays."""
    reasons: dict[str, tuple[str, ...]] = {}
    """Of each node, when nobody would; under an empty name why it is not its time."""


def leaving(world: ClusterState, node: str, spec: VmSpec) -> str:
    """Why a VM should leave the node that owns it: ``drain``, ``move``, or empty: it should not."""
    found = world.node_spec(node)
    if found is not None and found.record is not None and found.record.draining:
        return "drain"
    place = spec.placement
    return "move" if place.move is PinMove.COLD and place.node not in ("", node) else ""


def departures(engine: PlacementEngine, node: str) -> list[Departure]:
    """Every VM that should leave the node, in the order in which they go: by priority, the oldest first.

    Only those that are wanted on: what is off is released anyhow.
    """
    world, found = engine.world, []
    for vm in engine.on(node):
        seen = world.spec(vm)
        spec = seen.record if seen is not None else None
        if seen is None or spec is None or not wants_on(world, vm):
            continue
        if why := leaving(world, node, spec):
            found.append((-spec.ha.priority, seen.mod, _departure(engine, node, spec, why)))
    return [departure for _, _, departure in sorted(found, key=lambda one: (one[:2], one[2].vm))]


def elsewhere(engine: PlacementEngine, node: str, spec: VmSpec) -> str:
    """The best node that would take a VM that this node releases; empty: none would now."""
    return _departure(engine, node, spec, "").to


def taker(engine: PlacementEngine, node: str, spec: VmSpec) -> str:
    """The same, also for a VM that would first have to wait for others to run (``start_after``)."""
    back = engine.without(spec.id)
    try:
        # A pin that does not move is for the next time; a node that drains is never the next place.
        return next((name for name in engine.head(spec, len(engine.nodes)) if name != node), "")
    finally:
        back()


def _departure(engine: PlacementEngine, node: str, spec: VmSpec, why: str) -> Departure:
    if held := start_gate(engine.world, spec.id, spec):
        return Departure(vm=spec.id, why=why, to="", reasons={"": (held,)})
    best = taker(engine, node, spec)
    back = engine.without(spec.id)
    try:
        reasons = {} if best else {name: engine.refusals(spec, view) for name, view in engine.nodes.items()}
    finally:
        back()
    return Departure(vm=spec.id, why=why, to=best, reasons=dict(sorted(reasons.items())))
