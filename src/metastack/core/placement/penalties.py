"""Penalties: nodes that could not start a VM and returned it to pending.

Owns: which nodes a VM passes over for that. Refuses: clocks: a penalty holds as long as its key is there.
Rule: a penalty is about one version of one spec; nothing has to be removed when that changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, cast

from ..model import Penalty, VmId, VmSpec
from ..state.cluster_state import ClusterState
from ..state.keys import Kind

_NONE: Final[Mapping[str, Penalty]] = MappingProxyType({})


class Penalties:
    """Which nodes have one of which VM: most VMs have none, and then nothing is looked up."""

    def __init__(self, world: ClusterState) -> None:
        self._world = world
        self._nodes: dict[VmId, dict[str, None]] = {}
        for names in world.names(Kind.PENALTY):
            self.note(names)

    def note(self, names: tuple[str, ...]) -> None:
        """That key was put, or is gone."""
        project, name, node = cast(tuple[str, str, str], names)
        vm = VmId(project, name)
        there = self._world.has(Kind.PENALTY, names)
        nodes = self._nodes.setdefault(vm, {})
        if there:
            nodes[node] = None
        else:
            nodes.pop(node, None)
        if not nodes:
            del self._nodes[vm]

    def of(self, spec: VmSpec) -> Mapping[str, Penalty]:
        """Penalties of that VM that hold, by node."""
        nodes = self._nodes.get(spec.id)
        if nodes is None:
            return _NONE
        found = ((node, self._world.penalty(spec.id, node)) for node in nodes)
        return {node: one for node, one in found if one is not None and one.uuid == spec.uuid}
