"""A board of a world that is not: nodes lost, nodes added, specs that nobody has written yet.

Owns: thinking nodes away without looking at everything again, and specs into a picture.
Refuses: time. VMs that start after others are placed like all: the question is whether there is room.
Rule: the answers are those of a board made anew; a test compares them.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable

from msgspec.structs import replace

from ..change import Batch, Entry, KeyEvent
from ..codec import encode
from ..model import NodeState, VmId, VmSpec
from ..world import World, mod_of
from . import filters
from .board import Board


class Imagined(Board):
    """A board that may differ from its world."""

    gated = False

    def losing(self, names: Iterable[str]) -> Imagined:
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

    def short_of_room(self, spec: VmSpec) -> bool:
        """Some node would take the VM if only it had more room."""
        self.groups.know(spec, self._placed_specs())
        return any(
            not filters.lasting_refusals(spec, node) and not self.groups.refusals(spec, node)
            for node in self.nodes.values()
        )


def with_specs(world: World, specs: Iterable[VmSpec]) -> World:
    """The world as if these specs were written now, in that order. It is the same object, changed."""
    for spec in specs:
        key, revision = world.keys.vm_spec(spec.id), world.revision + 1
        created = found.create if (found := world.spec(spec.id)) is not None else revision
        entry = Entry(key, encode(spec), created, revision, 1 if mod_of(found) == 0 else 2)
        world.apply(Batch(revision, (KeyEvent(key, revision, entry),)))
    return world


def with_claim(world: World, vm: VmId, node: str) -> World:
    """The world as if that node had taken the VM over from the one that has it. The same object, changed."""
    found = world.claim(vm)
    if found is None or found.record is None:
        return world
    key, revision = world.keys.claim(vm), world.revision + 1
    there = replace(found.record, node=node, session=world.session(node))
    entry = Entry(key, encode(there), found.create, revision, 2)
    world.apply(Batch(revision, (KeyEvent(key, revision, entry),)))
    return world
