"""The order of nodes for one shape of VM, kept up to date node by node.

Owns: who comes before whom. Refuses: groups and misses, which differ from VM to VM (:mod:`.board`).
Rule: best score first; among equal nodes each VM begins with another one, so that they share the work; and
every agent that has the same loads before it gets the same order.

A full rank of 2,048 nodes takes milliseconds; a change of one node's load moves one entry here.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

import msgspec

from ..model import Placement, VmSpec, Weights
from . import filters, scores
from .nodes import NodeView, rendezvous, ring

FEW = 32
"""So many equal nodes are ordered by rendezvous hash, which shares the work most evenly; one hash for each of
more would cost more than all the rest, so those lie on a ring."""
RELUCTANT = 1 << 40
"""Added to the key of a node that would rather not take the VM: it comes after all that would."""

_ANYWHERE = Placement()

Entry = tuple[int, int, str]
"""Score turned round (smaller is better), place on the ring, name."""


class Order:
    """Nodes that would take VMs of this shape, best first."""

    def __init__(self, spec: VmSpec, weights: Weights, nodes: dict[str, NodeView]) -> None:
        self._spec, self._weights, self._nodes = spec, weights, nodes
        self._lasting: dict[str, bool] = {}
        self._entries: dict[str, Entry] = {}
        self._dirty: set[str] = set()
        for name, node in nodes.items():
            self._lasting[name] = not filters.lasting_refusals(spec, node)
            entry = self._entry(node)
            if entry is not None:
                self._entries[name] = entry
        self._sorted: list[Entry] = sorted(self._entries.values())

    def touch(self, name: str) -> None:
        """That node's load changed."""
        self._dirty.add(name)

    def renew(self, name: str) -> None:
        """That node itself changed."""
        self._lasting[name] = not filters.lasting_refusals(self._spec, self._nodes[name])
        self._dirty.add(name)

    def _entry(self, node: NodeView) -> Entry | None:
        if not self._lasting[node.name] or filters.room_refusals(self._spec, node):
            return None
        key = -scores.base(self._spec, node, self._weights)
        if node.taints and filters.reluctant(self._spec, node):
            key += RELUCTANT
        return key, ring(node.name), node.name

    def _freshen(self) -> None:
        for name in self._dirty:
            new, old = self._entry(self._nodes[name]), self._entries.get(name)
            if new == old:
                continue
            if old is not None:
                del self._sorted[bisect_left(self._sorted, old)]
                del self._entries[name]
            if new is not None:
                insort(self._sorted, new)
                self._entries[name] = new
        self._dirty.clear()

    def walk(self, subject: str) -> Iterator[Entry]:
        """Entries, best first, for the VM with this UUID."""
        if self._dirty:
            self._freshen()
        entries, at, start = self._sorted, 0, ring(subject)
        while at < len(entries):
            key = entries[at][0]
            end = bisect_left(entries, (key + 1,), at)
            if end - at <= FEW:
                yield from sorted(entries[at:end], key=lambda entry: -rendezvous(subject, entry[2]))
                at = end
                continue
            middle = bisect_left(entries, (key, start), at, end)
            yield from entries[middle:end]
            yield from entries[at:middle]
            at = end

    def __len__(self) -> int:
        if self._dirty:
            self._freshen()
        return len(self._sorted)


def shape_of(spec: VmSpec, weights: Weights) -> object:
    """VMs of one shape find the same nodes in the same order."""
    nics = spec.nics
    bridges = nics[0].bridge if len(nics) == 1 else ",".join(sorted({nic.bridge for nic in nics}))
    plain: tuple[object, ...] = (spec.cpus, spec.memory_mib, bridges)
    if weights.image:
        plain += (spec.image_uuid,)
    if spec.placement == _ANYWHERE and not spec.resources:
        return plain
    return (*plain, msgspec.json.encode((spec.placement, sorted(spec.resources.items()))))
