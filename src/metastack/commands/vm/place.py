"""Changing where a VM may run, after it was created: place, move, unpin.

Owns: these edits of ``placement`` and ``ha``. Refuses: moving a guest by itself: its node does that, and only
when the spec says that a running VM follows its pin (``placement.move``).
Rule: nothing that a person did not ask for stops a guest; and a move is refused when its node would not take
the VM, because the guest would be stopped for nothing.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from metastack.core.model import NodeFacts, PinMove, VmId, VmSpec
from metastack.core.placement import PlacementEngine, explain, with_specs
from metastack.core.state.cluster_state import ClusterState, mod_of, wants_on
from metastack.core.transaction import Guard

from .. import names
from ..capacity.reserve import admit_place
from ..problem import Problem, conflict, not_found, usage
from ..reading import read_engine_state
from ..request import Cluster, Request
from .create import check_order, check_ready_port
from .placement_options import PlacementOptions, demands_text
from .specs import Changed, Edit, edit_vm, label_of


class Placed(Struct, frozen=True, kw_only=True):
    """The spec as it is now, and what that means for a guest that runs."""

    spec: VmSpec
    changed: bool
    remark: str = ""


async def place_vm(
    cluster: Cluster, request: Request, vm: VmId, demands: PlacementOptions, ignore_spare: bool = False
) -> Placed:
    """Change what a VM demands of its place. A running VM stays where it is, and the answer says so."""
    if not demands.said:
        raise usage("vm place", "no option is given", "such as --priority 10, or --spread '' to remove one")
    if demands.node:
        await _need_node(cluster, demands.node)

    async def edit(spec: VmSpec) -> Edit | None:
        placement, ha = demands.on(spec.placement, spec.ha, vm.project)
        if demands.node is not None:
            placement = replace(placement, move=PinMove.STAY)
        if ha.ready_port != spec.ha.ready_port:
            check_ready_port(ha, bool(spec.nics))
        if ha.start_after != spec.ha.start_after:
            await check_order(cluster, vm, ha)
        after = replace(spec, placement=placement, ha=ha)
        if after == spec:
            return None
        let_in = await admit_place(cluster, request, spec, after, ignore_spare)
        message = "; ".join(demands_text(after))
        return Edit(spec=after, message=message, guards=let_in.guards, effects=let_in.effects)

    changed = await edit_vm(cluster, request, vm, "vm.place", edit)
    remark = _remark(await read_engine_state(cluster), changed.spec)
    return Placed(spec=changed.spec, changed=changed.changed, remark=remark)


async def _need_node(cluster: Cluster, node: str) -> None:
    if await cluster.read(NodeFacts, cluster.keys.node_facts(names.name("node", node))) is None:
        raise not_found(f"node {node}", "`metastack node list` shows the nodes")


def _remark(world: ClusterState, spec: VmSpec) -> str:
    """What becomes of the guest that runs now; empty when none does."""
    node = _runs_on(world, spec)
    if not node:
        return ""
    if world.alive(node) is None:
        return f"it was on {node}, which is lost: the change takes effect once {node} is fenced"
    told = f"it stays on {node}; the change takes effect when it is placed again"
    if reasons := _refusals(world, spec, node):
        told += f" ({node} no longer fits: {'; '.join(reasons)})"
    return told


def _runs_on(world: ClusterState, spec: VmSpec) -> str:
    """The node that owns the VM, lost or not; empty when nothing of it can run anywhere.

    A lost node's fence ends what it had: whoever takes the VM next places it by the spec of that moment.
    """
    claim = world.claim(spec.id)
    held = claim.record if claim is not None else None
    if held is None or held.uuid != spec.uuid:
        return ""
    fenced = world.alive(held.node) is None and held.session <= world.fenced_through(held.node)
    return "" if fenced else held.node


async def unpin_vm(cluster: Cluster, request: Request, vm: VmId, ignore_spare: bool = False) -> Changed:
    """Any node may take the VM again; where it runs it stays.

    No capacity is kept elsewhere for a pinned VM (``spare_nodes``), so this asks for more.
    """

    async def edit(spec: VmSpec) -> Edit | None:
        after = replace(spec, placement=replace(spec.placement, node="", move=PinMove.STAY))
        if after == spec:
            return None
        let_in = await admit_place(cluster, request, spec, after, ignore_spare)
        return Edit(spec=after, guards=let_in.guards, effects=let_in.effects)

    return await edit_vm(cluster, request, vm, "vm.unpin", edit)


async def move_vm(
    cluster: Cluster, request: Request, vm: VmId, node: str, cold: bool, ignore_spare: bool = False
) -> Placed:
    """Pin the VM to a node; with ``cold`` a guest that runs elsewhere is stopped there and started here.

    Refused when it runs elsewhere and ``cold`` is not set, and when the node would not take it. Refused also
    when it takes the capacity that another VM would need after a loss (``spare_nodes``). If it is there already
    it stays, also when the node would not take it again: the answer says so.
    """
    await _need_node(cluster, node)
    object, keys, remark = label_of(vm), cluster.keys, ""

    async def edit(spec: VmSpec) -> Edit | None:
        nonlocal remark
        world = await read_engine_state(cluster)
        runs_on = _runs_on(world, spec)
        elsewhere = runs_on not in ("", node) and wants_on(world, vm)
        if elsewhere and not cold:
            raise _needs_cold(world, vm, runs_on, node)
        move = PinMove.COLD if elsewhere else PinMove.STAY
        after = replace(spec, placement=replace(spec.placement, node=node, move=move))
        reasons = _refusals(world, after, node)
        remark = _remark(with_specs(world, [after]), after) if reasons else ""
        if runs_on != node and reasons:
            raise conflict(
                object,
                f"does not fit node {node}: {'; '.join(reasons)}",
                f"`metastack vm place {vm} --node {node}` pins it for later",
            )
        if after == spec:
            return None
        # The claim is a guard: whether it runs elsewhere is what decides whether it is stopped.
        let_in = await admit_place(cluster, request, spec, after, ignore_spare, node if elsewhere else "")
        guards = (Guard(keys.claim(vm), "mod", mod_of(world.claim(vm))), *let_in.guards)
        message = f"to {node}" + (", cold" if elsewhere else "")
        return Edit(spec=after, guards=guards, effects=let_in.effects, message=message)

    changed = await edit_vm(cluster, request, vm, "vm.move", edit)
    return Placed(spec=changed.spec, changed=changed.changed, remark=remark)


def _needs_cold(world: ClusterState, vm: VmId, runs_on: str, node: str) -> Problem:
    """Why a VM that a node owns is not moved without ``cold``."""
    command = f"`metastack vm move {vm} {node} --cold`"
    if world.alive(runs_on) is not None:
        return conflict(
            label_of(vm),
            f"runs on {runs_on}; a running VM cannot be moved yet without a stop",
            f"{command} stops it there and starts it on {node}",
        )
    return conflict(
        label_of(vm),
        f"may still run on {runs_on}, which is lost and not fenced yet",
        f"{command} starts it on {node} once {runs_on} is fenced, and stops it there if {runs_on} returns",
    )


def _refusals(world: ClusterState, spec: VmSpec, node: str) -> tuple[str, ...]:
    """Why the node would not take the VM as this spec has it."""
    engine = PlacementEngine(with_specs(world, [spec]))
    return next(
        (said.reasons for said in explain(engine, spec) if said.node == node), ("the node has not joined",)
    )
