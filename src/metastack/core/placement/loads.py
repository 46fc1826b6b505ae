"""Loads: where each VM is, really or by promise, and what each node has promised by that.

Owns: the sums of nodes, the counts of groups and which orders have to look again.
Refuses: deciding who goes where (:mod:`.engine`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from ..model import VmId, VmSpec, Weights
from ..state.cluster_state import ClusterState
from .groups import Groups
from .node_order import NodeOrder
from .nodes import NodeView, plus


class Loads:
    """The part of an engine that counts."""

    world: ClusterState
    weights: Weights
    nodes: dict[str, NodeView]
    groups: Groups
    _orders: dict[object, NodeOrder]
    _placed: dict[VmId, tuple[str, VmSpec]]
    """Real and virtual assignments, of each spec what it shares with others (:meth:`.ClusterState.lean`)."""
    _on: dict[str, set[VmId]]
    """VMs claimed by each node."""

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

    def _placed_specs(self) -> Iterator[tuple[VmSpec, str]]:
        return ((spec, node) for node, spec in self._placed.values())

    def placed_on(self, vm: VmId) -> str:
        """Where the VM is, really or virtually; empty: nowhere."""
        held = self._placed.get(vm)
        return held[0] if held is not None else ""

    def on(self, node: str) -> list[VmId]:
        """VMs that a node owns."""
        return sorted(self._on.get(node, ()))

    def without(self, vm: VmId) -> Callable[[], None]:
        """Think a VM away; returns what brings it back."""
        if (wait := self.world.spec(vm)) is not None and wait.record is not None:
            # Before, not while it is away: who is counted then is counted with it.
            self.groups.know(wait.record, self._placed_specs())
        held = self._placed.get(vm)
        if held is None:
            return lambda: None
        node, spec = held
        self._load(spec, node, -1)
        return lambda: self._load(spec, node, 1)
