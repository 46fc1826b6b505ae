"""The order of nodes for one shape of VM, kept up to date node by node.

Owns: who comes before whom. Refuses: groups, which differ from VM to VM (:mod:`.engine`).
Rule: best score first; among equal nodes each VM begins with another one, so that they share the work; and
every agent that has the same loads before it gets the same order.

A full rank of 2,048 nodes takes milliseconds; a change of one node's load moves one entry here.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, insort
from collections.abc import Iterator

import msgspec

from ..model import Placement, VmSpec, Weights
from . import filters, scores
from .misses import Misses
from .nodes import NodeView, on_ring, rendezvous, ring

MAX_HASHED_NODES = 8
"""Up to this number, equal nodes are ordered by rendezvous hash, which shares the work most evenly. For more
nodes one hash each would cost more than all the rest, so those lie on a ring."""
RELUCTANT = 1 << 34
"""Added to the key of a node that would rather not take the VM: it comes after all that would."""
CHARGED = 1 << 36
"""Added for each miss that a node is charged with: it comes after those with fewer."""
_PLACES = 20
"""Bits of a node's place on the ring; the score is above them, in one 64-bit number."""

_ANYWHERE = Placement()


class NodeOrder:
    """Nodes that would take VMs of this shape, best first.

    Each is one number, its score turned round above its place on the ring: numbers that lie side by side are
    searched and moved at a fraction of what tuples cost.
    """

    def __init__(
        self, spec: VmSpec, weights: Weights, nodes: dict[str, NodeView], misses: Misses | None = None
    ) -> None:
        self._spec, self._weights, self._nodes, self._misses = spec, weights, nodes, misses
        places = sorted((ring(name), name) for name in nodes)
        self._ring = [at for at, _ in places]
        self._names = [name for _, name in places]
        self._place = {name: place for place, name in enumerate(self._names)}
        self._lasting: dict[str, bool] = {}
        self._entries: dict[str, int] = {}
        self.dirty: set[str] = set()
        """Nodes whose load changed since somebody asked."""
        for name, node in nodes.items():
            self._lasting[name] = not filters.lasting_refusals(spec, node)
            entry = self._entry(node)
            if entry is not None:
                self._entries[name] = entry
        self._sorted = array("q", sorted(self._entries.values()))

    def renew(self, name: str) -> None:
        """That node itself changed."""
        self._lasting[name] = not filters.lasting_refusals(self._spec, self._nodes[name])
        self.dirty.add(name)

    def _entry(self, node: NodeView) -> int | None:
        name, misses = node.name, self._misses
        if not self._lasting[name] or not filters.has_capacity(self._spec, node):
            return None
        key = -scores.base(self._spec, node, self._weights)
        if node.taints and filters.reluctant(self._spec, node):
            key += RELUCTANT
        if misses is not None and name in misses.count:
            key += CHARGED * misses.charged(name)
        return key << _PLACES | self._place[name]

    def _freshen(self) -> None:
        entries, nodes, line = self._entries, self._nodes, self._sorted
        for name in self.dirty:
            new, old = self._entry(nodes[name]), entries.get(name)
            if new == old:
                continue
            if old is not None:
                del line[bisect_left(line, old)]
                del entries[name]
            if new is not None:
                insort(line, new)
                entries[name] = new
        self.dirty.clear()

    def first(self, subject: str, limit: int) -> list[str]:
        """The best ``limit`` nodes for the VM with this UUID."""
        found: list[str] = []
        for _, names in self._groups(subject, limit):
            found += names
            if len(found) >= limit:
                return found[:limit]
        return found

    def walk(self, subject: str) -> Iterator[tuple[int, str]]:
        """Key and name of all, best first; the smaller key is the better."""
        for key, names in self._groups(subject, len(self._nodes)):
            for name in names:
                yield key, name

    def _groups(self, subject: str, limit: int) -> Iterator[tuple[int, list[str]]]:
        """Nodes of one score after the other, each as this VM sees them and at least ``limit``."""
        if self.dirty:
            self._freshen()
        entries, names, at, size = self._sorted, self._names, 0, len(self._sorted)
        mask = (1 << _PLACES) - 1
        while at < size:
            key, end = entries[at] >> _PLACES, at + 1
            if end < size and entries[end] >> _PLACES == key:
                end = bisect_left(entries, (key + 1) << _PLACES, end)
            if end - at == 1:
                yield key, [names[entries[at] & mask]]
            elif end - at <= MAX_HASHED_NODES:
                equal = [names[entry & mask] for entry in entries[at:end]]
                yield key, sorted(equal, key=lambda name: -rendezvous(subject, name))
            else:
                start = bisect_left(self._ring, on_ring(subject))
                middle = bisect_left(entries, key << _PLACES | start, at, end)
                turned = entries[middle : min(end, middle + limit)]
                if len(turned) < limit:
                    turned += entries[at:middle]
                yield key, [names[entry & mask] for entry in turned]
            at = end

    def __len__(self) -> int:
        if self.dirty:
            self._freshen()
        return len(self._sorted)


def shape_of(spec: VmSpec, weights: Weights) -> object:
    """VMs of one shape find the same nodes in the same order."""
    nics = spec.nics
    bridges = nics[0].bridge if len(nics) == 1 else ",".join(sorted({nic.bridge for nic in nics}))
    plain: tuple[object, ...] = (spec.cpus, spec.memory_mib, bridges)
    if weights.image:
        plain += (spec.image_uuid,)
    place = spec.placement
    if place.affinity or place.anti_affinity or place.spread:
        # Groups are the engine's: without this each group would have orders of its own.
        place = msgspec.structs.replace(place, affinity=(), anti_affinity=(), spread=())
    if place == _ANYWHERE and not spec.resources:
        return plain
    return (*plain, msgspec.json.encode((place, sorted(spec.resources.items()))))
