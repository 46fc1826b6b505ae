"""VMs that no node would take even if it were empty: labels, taints, processors, pins, a size.

A VM that runs may be one of them: it runs on until its node is lost, and then nowhere. Once its own node would
not take it again, group rules count, too: the VMs that run on the others may keep it away.
"""

from __future__ import annotations

from collections.abc import Iterator

from msgspec.structs import replace

from metastack.core.model import NodeState, VmId, VmSpec
from metastack.core.placement import NodeView, PlacementEngine, node_view
from metastack.core.placement.filters import lasting_refusals, too_large
from metastack.core.placement.node_order import shape_of
from metastack.core.state.cluster_state import wants_on

from ..reasons import main_reason
from .facts import Facts, Finding, warning


def check(facts: Facts) -> Iterator[Finding]:
    world = facts.world
    # Cordoned, draining and ill nodes count as if they were well: those have checks of their own.
    views = [node_view(world, name) for name in world.nodes() if world.alive(name) is not None]
    nodes = [replace(view, state=NodeState.READY, ready=True, storage_ok=True) for view in views]
    known: dict[object, str] = {}
    engine = PlacementEngine(world)
    for vm, found in sorted(world.specs()):
        spec = found.record
        if spec is None or not nodes or not wants_on(world, vm):
            continue
        if spec.placement.node in world.nodes() and world.alive(spec.placement.node) is None:
            continue  # what its node has is not known while that is lost
        shape = shape_of(spec, world.config.weights)
        if shape not in known:
            known[shape] = _why(spec, nodes)
        if known[shape]:
            yield warning(
                f"vm {vm}",
                f"fits no node, not even an empty one: {known[shape]}",
                f"metastack vm explain {vm}",
            )
        elif (here := _runs_on(engine, vm)) and (why := _why_no_more(engine, spec, here, nodes)):
            yield warning(
                f"vm {vm}",
                f"runs on {here}, but neither {here} nor another node would accept it now: {why}",
                f"metastack vm explain {vm}",
            )


def _why(spec: VmSpec, nodes: list[NodeView]) -> str:
    """Why every node refuses such a VM for good, its size among it; empty when one would take it."""
    reasons = {node.name: lasting_refusals(spec, node) + too_large(spec, node) for node in nodes}
    return main_reason(reasons) if all(reasons.values()) else ""


def _runs_on(engine: PlacementEngine, vm: VmId) -> str:
    """The living node that owns the VM; empty: none does."""
    node = "" if vm in engine.waiting else engine.placed_on(vm)
    return node if engine.world.alive(node) is not None else ""


def _why_no_more(engine: PlacementEngine, spec: VmSpec, here: str, nodes: list[NodeView]) -> str:
    """Why neither its own node nor another would take a running VM, capacity left aside; empty: one would."""
    back = engine.without(spec.id)
    try:
        reasons: dict[str, tuple[str, ...]] = {}
        for node in sorted(nodes, key=lambda node: node.name != here):  # most are content where they are
            reasons[node.name] = lasting_refusals(spec, node) + engine.groups.refusals(spec, node)
            if not reasons[node.name]:
                return ""
    finally:
        back()
    return main_reason(reasons)
