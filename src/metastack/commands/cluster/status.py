"""The cluster in one look: is it fine, and if not, what first. Pure."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, Final

from msgspec import Struct

from metastack.core.model import NodeState, Phase
from metastack.core.protocol.restored import held
from metastack.core.protocol.silence import silent_nodes, too_many
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.keys import Kind

from ..fence.views import BRAKE_HINT, brake_held, briefly, fence_views
from ..node.views import NodeInfo, node_infos
from ..vm.views import VmView, vm_views
from .maintenance import MaintenanceView, in_words, maintenance_view
from .shutdown import in_words as shutdown_words
from .shutdown import shutdown_view
from .upgrade_views import unfinished

NO_WRITES: Final = "etcd refuses writes, so no VM starts or moves; `metastack doctor` shows the repair"


class ClusterView(Struct, kw_only=True):
    """The cluster in one look."""

    ok: bool
    summary: str
    problems: list[str]
    nodes: dict[str, int]
    """Count of each state."""
    vms: dict[str, int]
    """Count of each phase."""
    nodes_lost: list[str]
    notes: list[str]
    """What is worth knowing, and no trouble."""
    brake_engaged: bool
    """Too many nodes are lost for any of them to be fenced: a node says so, or the records do."""
    maintenance: MaintenanceView


def cluster_view(
    world: ClusterState, alarms: Collection[str] = (), maintenance_left_s: int | None = None
) -> ClusterView:
    """Is the cluster fine, and if not, why. ``alarms``: those that etcd's members tell of."""
    pause = maintenance_view(world, maintenance_left_s)
    nodes, vms = node_infos(world), vm_views(world)
    states, phases, problems = _counts(n.state for n in nodes), _counts(v.phase or "broken" for v in vms), []
    lost = [node.name for node in nodes if node.state == NodeState.LOST]
    brake = brake_of(world, nodes)
    problems += [f"etcd has raised the alarm {name}: {NO_WRITES}" for name in sorted(set(alarms))]
    if not nodes:
        problems.append("no node has joined")
    problems += [f"node {name} does not heed the maintenance: upgrade its agent" for name in pause.heedless]
    problems += [f"node {name} rejects this etcd: {why}" for name, why in _refusing(world)]
    if waiting := held(world):
        problems.append(waiting)
    if brake:
        problems.append(f"{brake}: {BRAKE_HINT if any(node.ready for node in nodes) else 'bring a node back'}")
    problems += [f"node {v.name} is not fenced: {v.trouble}" for v in fence_views(world) if v.trouble]
    problems += [
        f"node {node.name} is lost: {briefly(world, node.name, node.message or '')}"
        for node in nodes
        if node.state == NodeState.LOST
    ]
    problems += [f"node {node.name}: {node.message}" for node in nodes if node.broken]
    problems += [f"node {name}: {why}" for name, why in silent(world)]
    for view in vms:
        bad = view.broken or view.phase == Phase.FAILED or (view.power == "on" and view.phase != Phase.RUNNING)
        if (
            bad
            and view.phase not in (Phase.PAUSED, Phase.MIGRATING, Phase.STALLED)  # their node is named
            and not view.deleted
            and not _resting(view)
        ):
            said = briefly(world, view.node or "", view.message or "its node reports nothing")
            problems.append(f"vm {view.id} is {view.phase or 'broken'}: {said}")
    running = phases.get("running", 0)
    ready = states.get("ready", 0)
    head = f"{ready} of {len(nodes)} nodes ready, {running} of {len(vms)} VMs running"
    summary = f"ok: {head}" if not problems else f"not ok: {problems[0]} ({head})"
    if pause.on:
        summary = f"{in_words(pause)}; {summary}"
    if down := shutdown_words(shutdown_view(world, None)):
        summary = f"{down}; {summary}"
    return ClusterView(
        ok=not problems,
        summary=summary,
        problems=problems,
        nodes=states,
        vms=phases,
        nodes_lost=lost,
        notes=[said] if (said := unfinished(world)) else [],
        brake_engaged=bool(brake),
        maintenance=pause,
    )


def brake_of(world: ClusterState, nodes: Sequence[NodeInfo]) -> str:
    """Why nothing is fenced right now, in a node's words or by the records; empty when the brake is off."""
    joined = [node for node in nodes if not node.cordoned]
    lost = [node for node in joined if node.session is None]
    if not (held := brake_held(world)) and len(lost) * 100 > world.config.brake_percent * len(joined):
        return f"{len(lost)} of {len(joined)} nodes are lost: the brake holds, no node is fenced"
    return held


def silent(world: ClusterState) -> list[tuple[str, str]]:
    """Nodes whose storage does not answer: since when, what that holds up, and what comes of it."""
    found = []
    for name in sorted(silent_nodes(world)):
        alive, vms = world.alive(name), world.unfenced(name)
        assert alive is not None
        stalled = "1 VM is stalled" if vms == 1 else f"{vms} VMs are stalled" if vms else "the node owns no VM"
        why = f"the storage has not answered since {alive.ok.storage_silent_since}; {stalled}"
        lost_s = world.config.storage_lost_s
        if vms and alive.ok.storage == "file":
            why += "; file storage cannot fence a node, so its VMs wait for it"
        elif vms and not lost_s:
            why += "; storage_lost_s is 0, so its VMs wait for it"
        elif vms:
            why += f"; {too_many(world) or f'it is fenced after {lost_s} s if the storage answers other nodes'}"
        found.append((name, why))
    return found


def _refusing(world: ClusterState) -> list[tuple[str, str]]:
    found = [(names[0], world.refusal(names[0])) for names in world.names(Kind.REFUSAL)]
    return sorted((n, f.record.why if f.record is not None else f.why) for n, f in found if f is not None)


def _resting(view: VmView) -> bool:
    """A guest that switched itself off is as it wants to be."""
    return view.phase == Phase.STOPPED


def _counts(values: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return dict(sorted(found.items()))
