"""Why a VM is where it is, or nowhere: every node's answer, and what else keeps it waiting.

Owns: the words around the answers. Refuses: an opinion of its own: each verdict is the nodes' own engine's.
Rule: a node is quoted with every reason it has, not with the first.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from metastack.core.model import Event, Ha, Phase, Placement, Power, VmId, VmSpec, token_revision
from metastack.core.placement import (
    GroupRule,
    PlacementEngine,
    Verdict,
    departures,
    explain,
    group_rules,
    node_state,
    with_specs,
)
from metastack.core.state.cluster_state import ClusterState, wants_on
from metastack.core.state.codec import Unreadable, decode
from metastack.core.state.keys import Kind

from ..capacity.reserve import admit
from ..problem import Problem, not_found
from ..reading import read_engine_state
from ..reasons import main_reason
from ..request import VMS_AT_ONCE, Cluster, Request, broken
from .break_lock import in_the_way, what_to_do
from .placement_options import demands_text
from .specs import label_of
from .views import vm_view


class NodeVerdict(Struct, kw_only=True):
    """What one node says."""

    node: str
    state: str
    fits: bool
    chosen: bool = False
    """It is to take the VM, or has it."""
    here: bool = False
    """It owns the VM."""
    rank: int | None = None
    """Place among those that would take it, from 1."""
    score: float | None = None
    parts: dict[str, float] = {}
    reasons: list[str] = []
    """Why it would not take the VM; empty when it would."""


class Gate(Struct, kw_only=True):
    """A VM that has to be up first."""

    vm: str
    phase: str | None
    up: bool
    port: int | None = None
    """The TCP port that has to answer, too."""


class Rule(Struct, kw_only=True):
    """A group rule, and where the group is."""

    kind: str
    group: str
    topology: str
    required: bool
    members: dict[str, int]
    """Of the group, without the VM itself, in each domain."""


class HintView(Struct, kw_only=True):
    node: str
    by: str | None
    honoured: bool
    """False: it is for another VM of this name, or that node does not take it."""


class VmExplanation(Struct, kw_only=True):
    """Everything that bears on the place of one VM."""

    name: str
    project: str
    uuid: str
    summary: str
    power: str
    phase: str | None = None
    node: str | None = None
    """The node that owns it."""
    session: int | None = None
    epoch: int | None = None
    claimed_at: str | None = None
    taken_from: str | None = None
    chosen: str | None = None
    """The node that has it, or is to take it; null: none."""
    pinned_to: str | None = None
    move: str | None = None
    """``cold``: a running VM follows its pin."""
    hint: HintView | None = None
    line: int | None = None
    """Place among the VMs that wait, from 1."""
    refused: str | None = None
    """Of a VM that is only thought of: why it would not be let in (``spare_nodes``)."""
    held: str | None = None
    """Why it is not its time yet."""
    gates: list[Gate] = []
    rules: list[Rule] = []
    demands: list[str] = []
    placement: Placement = Placement()
    ha: Ha = Ha()
    resources: dict[str, int] = {}
    nodes: list[NodeVerdict] = []
    """The best first, those that refuse last."""
    deleted: bool = False


async def explain_vm(cluster: Cluster, vm: VmId) -> VmExplanation:
    """Why the VM is where it is. Raises Problem."""
    world = await read_engine_state(cluster)
    found = world.spec(vm)
    if found is None:
        raise not_found(label_of(vm), "`metastack vm list` shows the VMs")
    if found.record is None:
        raise broken(label_of(vm), found.why)
    view = explained(PlacementEngine(world), found.record)
    if view.epoch is not None:
        view.claimed_at = await _claimed_at(cluster, token_revision(view.epoch))
    return view


async def explain_plan(
    cluster: Cluster, request: Request, specs: Sequence[VmSpec], ignore_spare: bool = False
) -> list[VmExplanation]:
    """Where VMs would go that nobody has written."""
    world = with_specs(await read_engine_state(cluster), specs, VMS_AT_ONCE)
    engine = PlacementEngine(world)
    views = [explained(engine, spec) for spec in specs]
    for view, spec in zip(views, specs, strict=True):
        if spec.power is Power.ON and view.held is None:
            view.summary = _would(view)
    try:
        await admit(cluster, request, world.config, specs, ignore_spare)
    except Problem as problem:
        for view in views:
            view.refused = problem.message
    return views


def equal_nodes_words(views: Sequence[VmExplanation]) -> str:
    """What a plan of several leaves open; empty when it says all, or none of them would start."""
    if len(views) < 2 or views[0].refused or not any(view.chosen for view in views):
        return ""
    return "the UUIDs that the VMs get decide between equal nodes"


async def _claimed_at(cluster: Cluster, revision: int) -> str | None:
    """When the claim was put: its event was put with it. None when events of that time are gone."""
    snapshot = await cluster.store.list(cluster.keys.prefix(Kind.EVENT))
    for entry in snapshot.entries:
        if entry.mod_revision == revision:
            try:
                return decode(Event, entry.value, entry.key).at or None
            except Unreadable:
                return None
    return None


def explained(engine: PlacementEngine, spec: VmSpec) -> VmExplanation:
    """One VM of the engine's world, in every respect that placement knows."""
    world, vm, place = engine.world, spec.id, spec.placement
    seen, verdicts = vm_view(world, vm, lambda: engine), explain(engine, spec)
    wait = engine.waiting.get(vm)
    view = VmExplanation(
        name=vm.name,
        project=vm.project,
        uuid=spec.uuid,
        summary="",
        power=spec.power.value,
        phase=seen.phase if seen is not None else None,
        pinned_to=place.node or None,
        move=place.move.value if place.node else None,
        gates=[_gate(world, VmId(vm.project, name)) for name in spec.ha.start_after],
        rules=[_rule(rule) for rule in group_rules(engine, spec)],
        demands=demands_text(spec),
        placement=place,
        ha=spec.ha,
        resources=spec.resources,
    )
    claim = world.claim(vm)
    if claim is not None and claim.record is not None and claim.record.uuid == spec.uuid:
        view.node, view.session, view.epoch = claim.record.node, claim.record.session, claim.record.epoch
        view.taken_from = claim.record.taken_from or None
    view.chosen = view.node
    if wait is not None:
        view.chosen = wait.head[0] if wait.head else None
        view.held = wait.held or None
        view.line = 1 + sum(1 for other in engine.waiting.values() if other.line < wait.line)
    rank = 0
    for verdict in verdicts:
        rank += verdict.fits
        view.nodes.append(_verdict(world, verdict, view, rank))
    view.hint = _hint(world, spec, verdicts)
    view.summary = _summary(engine, spec, view, seen.message if seen is not None else None)
    return view


def _verdict(world: ClusterState, said: Verdict, view: VmExplanation, rank: int) -> NodeVerdict:
    return NodeVerdict(
        node=said.node,
        state=node_state(world, said.node).value,
        fits=said.fits,
        chosen=said.node == view.chosen,
        here=said.node == view.node,
        rank=rank if said.fits else None,
        score=said.score if said.fits else None,
        parts=said.parts,
        reasons=list(said.reasons),
    )


def _gate(world: ClusterState, other: VmId) -> Gate:
    seen = vm_view(world, other, lambda: None)
    found = world.status(other)
    status = found.record if found is not None else None
    up = status is not None and seen is not None and seen.phase == "running" and status.ready
    spec = world.spec(other)
    port = spec.record.ha.ready_port if spec is not None and spec.record is not None else 0
    return Gate(vm=str(other), phase=seen.phase if seen is not None else None, up=up, port=port or None)


def _rule(rule: GroupRule) -> Rule:
    return Rule(
        kind=rule.kind,
        group=rule.group,
        topology=rule.topology,
        required=rule.required,
        members=rule.members,
    )


def _hint(world: ClusterState, spec: VmSpec, verdicts: Sequence[Verdict]) -> HintView | None:
    found = world.hint(spec.id)
    if found is None or found.record is None:
        return None
    fits = any(verdict.node == found.record.node and verdict.fits for verdict in verdicts)
    return HintView(
        node=found.record.node, by=found.record.by or None, honoured=fits and found.record.uuid == spec.uuid
    )


def _summary(engine: PlacementEngine, spec: VmSpec, view: VmExplanation, message: str | None) -> str:
    """The one sentence."""
    world = engine.world
    fitting = [said.node for said in view.nodes if said.fits]
    refusing = {said.node: tuple(said.reasons) for said in view.nodes}
    if not wants_on(world, spec.id):
        state = "is stopped" if spec.power is Power.OFF else "was shut down by its guest"
        if view.node is not None:
            return f"{state}; {view.node} still owns it"
        if fitting:
            return f"{state}; if it starts now, {fitting[0]} would take it"
        return f"{state}; if it starts now, no node fits: {main_reason(refusing)}"
    if spec.id in engine.waiting:
        where = f"node {view.node} is fenced; " if view.node is not None else ""
        if view.held is not None:
            return f"{where}pending: {view.held}"
        if view.chosen is None:
            return f"{where}pending, no node fits: {main_reason(refusing)}"
        others = len(fitting) - 1
        if fitting and fitting[0] != view.chosen:
            # Others in the line are placed virtually after it: it keeps what it was promised.
            return f"{where}pending, assigned to {view.chosen}"
        return f"{where}pending, {view.chosen} is to claim it" + (f"; it fits {others} more" if others else "")
    if view.node is None:
        return message or "no node owns it"
    return _sits(engine, spec, view, message)


def _would(view: VmExplanation) -> str:
    """Of a VM that nobody has written."""
    chosen = next((said for said in view.nodes if said.node == view.chosen), None)
    if chosen is None:
        return f"no node fits: {main_reason({said.node: tuple(said.reasons) for said in view.nodes})}"
    others = [said for said in view.nodes if said.fits and said is not chosen]
    equal = [said.node for said in others if said.score == chosen.score]
    told = f"would start on {chosen.node}"
    if equal:
        told += f" or, equally good, on {' or '.join(sorted(equal))}: the UUID that the VM gets decides"
    return told


def _sits(engine: PlacementEngine, spec: VmSpec, view: VmExplanation, message: str | None) -> str:
    """Of a VM that a node owns."""
    node = view.node or ""
    if engine.world.alive(node) is None:
        return message or f"node {node} is lost"
    told = f"is on {node}" + (f", taken over from {view.taken_from}" if view.taken_from else "")
    client = in_the_way(engine.world, spec.id)
    if message and (client or view.phase in (Phase.WAITING, Phase.FAILED)):
        told += f", {view.phase}: {message}"
        if client and "break-lock" not in message:
            told += f"; {what_to_do(client, spec.id)}"
    for going in departures(engine, node):
        if going.vm == spec.id:
            why = (
                "the node is draining"
                if going.why == "drain"
                else f"a move to {spec.placement.node} is requested"
            )
            end = (
                f"{going.to} would take it"
                if going.to
                else f"it stays until a node fits: {main_reason(going.reasons)}"
            )
            return f"{told}; {why}, and {end}"
    mine = next((said for said in view.nodes if said.here), None)
    if mine is not None and not mine.fits:
        return f"{told} and stays there, though {node} no longer fits: {'; '.join(mine.reasons)}"
    best = next((said for said in view.nodes if said.fits), None)
    if best is not None and not best.here:
        return f"{told} and stays there; {best.node} would rank first now"
    return f"{told}; no node ranks higher"
