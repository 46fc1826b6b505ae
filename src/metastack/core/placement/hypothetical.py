"""A placement engine of another world: nodes lost, nodes added, specs that are not written yet.

Owns: thinking nodes away without looking at everything again, and specs into a picture.
Refuses: time. VMs that start after others are placed like all: the question is whether there is capacity.
Rule: the answers are those of a new engine; a test compares them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from ..model import Claim, NodeState, VmId, VmSpec
from ..state.cluster_state import ClusterState, Seen, mod_of
from ..state.codec import encode
from ..transaction import Batch, Entry, KeyEvent
from . import filters
from .engine import PlacementEngine


class HypotheticalEngine(PlacementEngine):
    """An engine that may differ from its world."""

    gated = False

    def _there(self, claim: Seen[Claim] | None) -> bool:
        """A VM that is to be released (and nothing else) is nowhere: it starts where it has capacity."""
        given_back = claim is not None and claim.record is not None and claim.record.to_release
        return not given_back and super()._there(claim)

    def losing(self, names: Iterable[str]) -> HypotheticalEngine:
        """The same without these nodes; this one stays as it is."""
        other = copy.copy(self)
        other._lost = self._lost | frozenset(names)
        other.nodes = {
            name: replace(view, images=dict(view.images) if view.images else view.images)
            for name, view in self.nodes.items()
        }
        other.groups = self.groups.over(other.nodes)
        other.waiting = {vm: replace(wait) for vm, wait in self.waiting.items()}
        other._line, other._orders, other._nowhere = list(self._line), {}, set()
        other._placed, other._on = dict(self._placed), {name: set(vms) for name, vms in self._on.items()}
        other._first_open = None
        moving = []
        for name in other._lost & other.nodes.keys():
            other.nodes[name].state = NodeState.LOST
            moving += sorted(other._on.get(name, ()))
        for vm in moving:
            other._see(vm)
        other._reopen(None)
        other._settle()
        return other

    def keep_promises(self) -> None:
        """Each pending VM with a place has taken it: what is lost later is lost after that."""
        for wait in [wait for wait in self.waiting.values() if wait.head]:
            del self.waiting[wait.vm]
            self._line.remove(wait.line)
            self._on.setdefault(wait.head[0], set()).add(wait.vm)

    def short_of_capacity(self, spec: VmSpec) -> bool:
        """Some node would take the VM if only it had more capacity."""
        self.groups.know(spec, self._placed_specs())
        return any(
            not filters.lasting_refusals(spec, node)
            and name not in self.penalties.of(spec)
            and not self.groups.refusals(spec, node)
            for name, node in self.nodes.items()
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
