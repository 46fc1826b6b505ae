"""The placement judge: hard rules about where VMs may be, looked at in etcd's own history.

Owns: "at most one of a group in a domain", and which nodes and VMs may let guests go.
Refuses: the agents' engines: it counts claims and labels by itself. Rule: only claims of sessions that no fence
reached count, of VMs that are wanted on and whose spec is what was claimed: all others leave or are taken over.
A VM that was taken over while it was off is released, whatever its spec says meanwhile: it counts if it runs.
"""

from __future__ import annotations

from typing import Final

from ....core.model import Claim, Fence, Halt, NodeSpec, Phase, PinMove, VmId, VmSpec, VmStatus
from ....core.state.cluster_state import seen
from ....core.state.keys import Kind
from ....core.transaction import KeyEvent
from ..engine.etcd import RESTORED
from ..engine.lab import Lab
from .converged import wanted_on

LEAVING_S: Final = 120.0
"""A stop that was asked for goes on so long after its drain was called off."""


class PlacementJudge:
    """Follows claims, specs and nodes."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self._claims: dict[VmId, Claim] = {}
        self._specs: dict[VmId, VmSpec] = {}
        self._nodes: dict[str, NodeSpec] = {}
        self._fenced: dict[str, int] = {}
        self._halts: dict[VmId, Halt] = {}
        self._to_release: set[VmId] = set()
        self._drained_s: dict[str, float] = {}
        """When a node was last seen to be draining."""
        lab.cluster.listeners.append(self.committed)

    def committed(self, by: str, revision: int, events: tuple[KeyEvent, ...]) -> None:
        """One revision, or all that a restore left."""
        if by == RESTORED:
            for table in (self._claims, self._specs, self._nodes, self._fenced, self._halts):
                table.clear()
            self._to_release.clear()
        claimed = []
        for event in events:
            key = self._lab.keys.parse(event.key)
            if key is None:
                continue
            match key.kind:
                case Kind.CLAIM:
                    claim = seen(Claim, event.entry).record if event.entry is not None else None
                    if claim is None:
                        self._claims.pop(key.vm, None)
                        self._to_release.discard(key.vm)
                    else:
                        old = self._claims.get(key.vm)
                        self._claims[key.vm] = claim
                        if old is None or old.node != claim.node:
                            claimed.append(key.vm)
                            self._to_release.discard(key.vm)
                            if old is not None and not self._wanted(key.vm):
                                self._to_release.add(key.vm)
                case Kind.VM_SPEC:
                    spec = seen(VmSpec, event.entry).record if event.entry is not None else None
                    if spec is None:
                        self._specs.pop(key.vm, None)
                    else:
                        self._specs[key.vm] = spec
                case Kind.VM_STATUS if event.entry is not None:
                    status = seen(VmStatus, event.entry).record
                    if status is not None and status.phase is Phase.RUNNING:
                        claimed.append(key.vm)
                        self._to_release.discard(key.vm)
                case Kind.HALT:
                    halt = seen(Halt, event.entry).record if event.entry is not None else None
                    if halt is None:
                        self._halts.pop(key.vm, None)
                    else:
                        self._halts[key.vm] = halt
                case Kind.NODE_SPEC if event.entry is not None:
                    self._node(key.names[0], seen(NodeSpec, event.entry).record or NodeSpec())
                case Kind.FENCE if event.entry is not None:
                    fence = seen(Fence, event.entry).record
                    if fence is not None:
                        self._fenced[key.names[0]] = fence.through
                case _:
                    pass
        if by != RESTORED:
            for vm in claimed:
                self._apart(by, vm)

    def _node(self, name: str, spec: NodeSpec) -> None:
        if spec.draining or (name in self._nodes and self._nodes[name].draining):
            self._drained_s[name] = self._lab.loop.time()
        self._nodes[name] = spec

    def _wanted(self, vm: VmId) -> bool:
        spec = self._specs.get(vm)
        return spec is not None and wanted_on(spec, self._halts.get(vm))

    def _there(self, vm: VmId, topology: str) -> tuple[VmSpec, str] | None:
        """What was claimed and in which domain it is; None when it does not count."""
        claim, spec = self._claims.get(vm), self._specs.get(vm)
        if claim is None or spec is None or spec.uuid != claim.uuid or not self._wanted(vm):
            return None
        if vm in self._to_release:
            return None
        if claim.session <= self._fenced.get(claim.node, 0):
            return None
        labels = self._nodes.get(claim.node, NodeSpec()).labels
        domain = claim.node if topology == "node" else labels.get(topology, "")
        return (spec, domain) if domain else None

    def _apart(self, by: str, vm: VmId) -> None:
        """Nobody whom it, or who, wants to be apart is in its domain."""
        mine = self._specs.get(vm)
        if mine is None:
            return
        for other in self._claims:
            if other == vm or other not in self._specs:
                continue
            for one, two in ((vm, other), (other, vm)):
                for term in self._specs[one].placement.anti_affinity:
                    a, b = self._there(one, term.topology), self._there(two, term.topology)
                    if a is None or b is None or a[1] != b[1] or not term.required:
                        continue
                    if all(b[0].labels.get(key) == value for key, value in term.labels.items()):
                        what = f"{by} put {vm} beside {other} in {term.topology} {a[1]}"
                        self._lab.violation("group", what)

    def may_leave(self, node: str, spec: VmSpec) -> bool:
        """A guest of that node may be ended although it is wanted: the node drains, or it is to move."""
        place = spec.placement
        if place.move is PinMove.COLD and place.node not in ("", node):
            return True
        drained_s = self._drained_s.get(node, -LEAVING_S)
        now_draining = node in self._nodes and self._nodes[node].draining
        return now_draining or self._lab.loop.time() - drained_s < LEAVING_S
