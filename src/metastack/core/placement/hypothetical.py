"""A placement engine of another world: nodes lost, nodes added, specs that are not written yet.

Owns: thinking nodes away without looking at everything again, and specs into a picture.
Refuses: time. VMs that start after others are placed like all: the question is whether there is capacity.
Rule: the answers are those of a new engine; a test compares them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from ..model import VmId, VmSpec
from ..state.cluster_state import ClusterState, mod_of
from ..state.codec import encode
from ..transaction import Batch, Entry, KeyEvent
from . import filters
from .engine import PlacementEngine
from .nodes import NodeView


def suppose(
    world: ClusterState, lost: frozenset[str] = frozenset(), more: Iterable[NodeView] = ()
) -> PlacementEngine:
    """An engine that may differ from its world."""
    return PlacementEngine(world, lost, more, supposed=True)


def without_nodes(engine: PlacementEngine, names: Iterable[str]) -> PlacementEngine:
    """The same without these nodes; the one given stays as it is."""
    other = engine.copied()
    other.lose(names)
    return other


def lacks_only_capacity(engine: PlacementEngine, spec: VmSpec) -> bool:
    """Some node would take the VM if only it had more capacity."""
    engine.groups.know(spec, engine.placed_specs())
    return any(
        not filters.lasting_refusals(spec, node)
        and name not in engine.penalties.of(spec)
        and not engine.groups.refusals(spec, node)
        for name, node in engine.nodes.items()
    )


def with_specs(world: ClusterState, specs: Sequence[VmSpec], at_once: int = 1) -> ClusterState:
    """The world as if these specs were written now, ``at_once`` in one transaction. The same object, changed.

    What is written at once has one revision: in the line it stands by name, whatever order it was asked in.
    """
    for start in range(0, len(specs), at_once):
        revision, events = world.revision + 1, list[KeyEvent]()
        for spec in specs[start : start + at_once]:
            key, found = world.keys.vm_spec(spec.id), world.spec(spec.id)
            created = found.create if found is not None else revision
            entry = Entry(key, encode(spec), created, revision, 1 if mod_of(found) == 0 else 2)
            events.append(KeyEvent(key, revision, entry))
        world.apply(Batch(revision, tuple(events)))
    return world


def with_claim(world: ClusterState, vm: VmId, node: str) -> ClusterState:
    """The world as if that node had taken the VM over from the one that has it. The same object, changed."""
    found = world.claim(vm)
    if found is None or found.record is None:
        return world
    key, revision = world.keys.claim(vm), world.revision + 1
    there = replace(found.record, node=node, session=world.session(node))
    entry = Entry(key, encode(there), found.create, revision, 2)
    world.apply(Batch(revision, (KeyEvent(key, revision, entry),)))
    return world
