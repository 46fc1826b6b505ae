"""What readers see: records of many kinds as one VM, one node, one cluster. Pure.

Owns: the fields of the JSON output and how phase and message follow from the records.
Refuses: reading and writing. Rule: a view says only what its records prove; unknown is None, and a record
that cannot be read makes that one object ``broken`` and nothing else.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from msgspec import Struct

from metastack.core.keys import Kind
from metastack.core.model import (
    Claim,
    Halt,
    Image,
    NodeState,
    Phase,
    Resources,
    VmId,
    VmSpec,
    VmStatus,
)
from metastack.core.placement import NodeView as Room
from metastack.core.placement import explain, node_state, node_views
from metastack.core.world import Seen, World, wants_on

from .fence_view import FenceView, fence_view, fence_views, fencer_words


class VmView(Struct, kw_only=True):
    """A VM as a reader sees it."""

    name: str
    project: str
    uuid: str | None = None
    power: str | None = None
    phase: str | None = None
    """None when its records cannot be read, or after it is gone."""
    node: str | None = None
    epoch: int | None = None
    ips: list[str] = []
    labels: dict[str, str] = {}
    cpus: int | None = None
    memory_mib: int | None = None
    disk_bytes: int | None = None
    image: str | None = None
    message: str | None = None
    since: str | None = None
    """When the phase began, RFC 3339 UTC."""
    session: int | None = None
    run: int | None = None
    volume_uuid: str | None = None
    networks: list[dict[str, str]] = []
    pinned_to: str | None = None
    crashes: int | None = None
    retry_at: str | None = None
    taken_from: str | None = None
    vnc: str | None = None
    created: str | None = None
    by: str | None = None
    reason: str | None = None
    request_id: str | None = None
    broken: bool = False
    deleted: bool = False
    """Only in the last line about a VM under ``--watch``, and while its remains are removed."""

    @property
    def id(self) -> VmId:
        return VmId(self.project, self.name)


class NodeInfo(Struct, kw_only=True):
    """A node as a reader sees it."""

    name: str
    state: str
    session: int | None = None
    address: str | None = None
    storage_address: str | None = None
    capacity: Resources | None = None
    """What the machine has."""
    room: Resources | None = None
    """What it may promise: after host reserve and overcommit."""
    allocated: Resources | None = None
    vms: int = 0
    hypervisor: str | None = None
    hypervisor_why: str | None = None
    message: str | None = None
    since: str | None = None
    ready: bool = False
    cordoned: bool = False
    draining: bool = False
    labels: dict[str, str] = {}
    storage: str | None = None
    bridges: list[str] = []
    console: str | None = None
    storage_addresses: list[str] = []
    fenced_through: int | None = None
    fence: FenceView | None = None
    """The last fence's receipt, and the open one."""
    brake: str | None = None
    """Why it fences nobody right now."""
    warnings: list[str] = []
    """What it finds wrong with itself."""
    versions: dict[str, str] = {}
    lag_ms: int | None = None
    uuid: str | None = None
    broken: bool = False
    deleted: bool = False


class ImageView(Struct, kw_only=True):
    """An image as a reader sees it."""

    name: str
    state: str | None = None
    uuid: str | None = None
    format: str | None = None
    size_bytes: int | None = None
    sha256: str | None = None
    source: str | None = None
    vms: int | None = None
    created: str | None = None
    by: str | None = None
    importer: str | None = None
    message: str | None = None
    broken: bool = False
    deleted: bool = False


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
    brake_engaged: bool
    """So many nodes are lost that none of them will be fenced: a node says so, or the records do."""


# ---------------------------------------------------------------------------------------------------------
# VMs


def vm_views(world: World) -> list[VmView]:
    """Every VM, sorted; also those that are gone from the specs and still being removed."""
    rooms = _once(lambda: node_views(world))
    ids = {VmId(*names) for kind in (Kind.VM_SPEC, Kind.CLAIM) for names in world.names(kind)}
    found = (vm_view(world, vm, rooms) for vm in sorted(ids))
    return [view for view in found if view is not None]


def vm_view(world: World, vm: VmId, rooms: Callable[[], list[Room] | None] | None = None) -> VmView | None:
    """One VM, or None when there is neither a spec nor a claim.

    ``rooms`` gives the nodes for the explanation of a pending VM; None from it: no explanation.
    """
    found, held = world.spec(vm), world.claim(vm)
    if found is None:
        return None if held is None else _leaving(world, vm, held)
    if found.record is None:
        return _broken(vm, found.why, held)
    view = _from_spec(found.record)
    if held is None:
        _unclaimed(world, found.record, view, rooms or (lambda: node_views(world)))
    elif held.record is None:
        return _broken(vm, held.why, None, view)
    elif held.record.uuid != found.record.uuid:
        view.phase = (Phase.PENDING if wants_on(world, vm) else Phase.STOPPED).value
        view.message = f"{held.record.node} still removes an earlier VM of this name"
    else:
        _claimed(world, found.record, held.record, view)
    return view


def _from_spec(spec: VmSpec) -> VmView:
    return VmView(
        name=spec.name,
        project=spec.project,
        uuid=spec.uuid,
        power=spec.power.value,
        labels=spec.labels,
        cpus=spec.cpus,
        memory_mib=spec.memory_mib,
        disk_bytes=spec.disk_bytes,
        image=spec.image,
        run=spec.run,
        volume_uuid=spec.volume_uuid,
        networks=[{"bridge": nic.bridge, "mac": nic.mac} for nic in spec.nics],
        pinned_to=spec.placement.node or None,
        created=spec.created or None,
        by=spec.by or None,
        reason=spec.reason or None,
        request_id=spec.request_id or None,
    )


def _broken(vm: VmId, why: str, held: Seen[Claim] | None, view: VmView | None = None) -> VmView:
    view = view or VmView(name=vm.name, project=vm.project)
    view.broken = True
    view.message = f"broken record, left alone: {why}"
    if held is not None and held.record is not None:
        view.node, view.epoch, view.session = held.record.node, held.record.epoch, held.record.session
    return view


def _leaving(world: World, vm: VmId, held: Seen[Claim]) -> VmView:
    """The spec is gone; the node that answers for it is removing it."""
    view = VmView(name=vm.name, project=vm.project, power="off", phase=Phase.STOPPING.value, deleted=True)
    claim = held.record
    if claim is None:
        return _broken(vm, held.why, None, view)
    view.uuid, view.volume_uuid = claim.uuid, claim.volume_uuid
    view.node, view.epoch, view.session = claim.node, claim.epoch, claim.session
    lost = "" if world.alive(claim.node) else f", once {claim.node}, which is lost, is back or fenced"
    view.message = f"deleted: {claim.node} removes it{lost}"
    return view


def _halted(world: World, spec: VmSpec) -> Halt | None:
    found = world.halt(spec.id)
    halt = found.record if found is not None else None
    return halt if halt is not None and halt.uuid == spec.uuid and halt.run >= spec.run else None


def _unclaimed(world: World, spec: VmSpec, view: VmView, rooms: Callable[[], list[Room] | None]) -> None:
    if wants_on(world, spec.id):
        view.phase = Phase.PENDING.value
        nodes = rooms()
        view.message = None if nodes is None else why_pending(spec, nodes)
        return
    view.phase = Phase.STOPPED.value
    halt = _halted(world, spec)
    if halt is not None and spec.power == "on":
        view.since = halt.at or None
        view.message = (
            halt.message or f"the guest switched itself off; `metastack vm start {spec.id}` starts it"
        )


def why_pending(spec: VmSpec, rooms: list[Room]) -> str:
    """Why nobody has taken the VM, in the words of the placement function that every node computes."""
    if not rooms:
        return "no node has joined this cluster yet"
    verdicts = explain(spec, rooms)
    fitting = [verdict.node for verdict in verdicts if verdict.fits]
    if fitting:
        return f"waits for {fitting[0]} to take it"
    return "no node takes it: " + "; ".join(
        f"{verdict.node}: {', '.join(verdict.reasons)}" for verdict in sorted(verdicts, key=lambda v: v.node)
    )


def _claimed(world: World, spec: VmSpec, claim: Claim, view: VmView) -> None:
    view.node, view.epoch, view.session = claim.node, claim.epoch, claim.session
    view.taken_from = claim.taken_from or None
    found = world.status(spec.id)
    if found is not None and found.record is None:
        _broken(spec.id, found.why, None, view)
        return
    status = found.record if found is not None else None
    if status is None or status.uuid != spec.uuid or status.node != claim.node:
        view.phase = Phase.CLAIMED.value
        view.message = _silent(world, claim)
        return
    _told(status, claim, spec, view)


def _told(status: VmStatus, claim: Claim, spec: VmSpec, view: VmView) -> None:
    """The owner's own words."""
    view.phase = status.phase.value
    view.ips = list(status.ips)
    view.since = status.since or None
    view.crashes = status.crashes
    view.retry_at = status.retry_at or None
    view.vnc = status.vnc or None
    view.message = status.message or _remark(status, claim, spec) or None


def _remark(status: VmStatus, claim: Claim, spec: VmSpec) -> str:
    """What is worth saying when the owner says nothing."""
    if status.phase in (Phase.RUNNING, Phase.PAUSED) and spec.power == "off":
        return "asked to stop"
    if status.phase is Phase.RUNNING and status.run < spec.run:
        return "asked to restart"
    if claim.taken_from:
        paused = "; it was paused there and runs again" if claim.was_paused else ""
        return f"taken over from {claim.taken_from}{paused}"
    return ""


def _silent(world: World, claim: Claim) -> str:
    """Why a claimed VM has no status."""
    node = claim.node
    if world.alive(node) is None:
        if claim.session <= world.fenced_through(node):
            return f"node {node} is lost and fenced: another node takes the VM over"
        fence = world.fence(node)
        if fence is not None and fence.record is not None and fence.record.intent:
            return f"node {node} is lost: {fencer_words(fence.record)}"
        return f"node {node} is lost: it is fenced before another node takes the VM over"
    if world.session(node) != claim.session:
        return f"node {node} has a new session and has not adopted the VM yet"
    return f"taken by {node}"


# ---------------------------------------------------------------------------------------------------------
# nodes


def node_infos(world: World) -> list[NodeInfo]:
    """Every node that joined or is alive, sorted."""
    rooms = {room.name: room for room in node_views(world)}
    counts: dict[str, int] = {}
    for _, held in world.claims():
        if held.record is not None:
            counts[held.record.node] = counts.get(held.record.node, 0) + 1
    return [_node_info(world, name, rooms[name], counts.get(name, 0)) for name in world.nodes()]


def _node_info(world: World, name: str, room: Room, vms: int) -> NodeInfo:
    alive, facts, wish, fence = world.alive(name), world.facts(name), world.node_spec(name), world.fence(name)
    info = NodeInfo(name=name, state=node_state(world, name).value, vms=vms, allocated=room.promised)
    info.session = world.session(name) or None
    if fence is not None and fence.record is not None:
        info.fenced_through = fence.record.through or None
    info.fence = fence_view(world, name)
    if facts is not None and facts.record is not None:
        info.uuid = facts.record.uuid or None
        info.storage_addresses = list(facts.record.storage_addresses)
    if wish is not None and wish.record is not None:
        info.cordoned, info.draining, info.labels = (
            wish.record.cordoned,
            wish.record.draining,
            wish.record.labels,
        )
    if alive is not None and alive.record is not None:
        told = alive.record
        info.address, info.storage_address = told.address or None, told.storage_address or None
        info.capacity, info.room = told.capacity, room.room
        info.hypervisor, info.hypervisor_why = told.hypervisor or None, told.hypervisor_why or None
        info.message, info.since, info.ready = told.message or None, told.since or None, told.ready
        info.storage, info.console, info.lag_ms = told.storage or None, told.console or None, told.lag_ms
        info.bridges, info.versions = list(told.bridges), told.versions
        info.brake, info.warnings = told.brake or None, list(told.warnings)
        if not told.ready:
            # A node that takes nothing yet is not ready in any reader's sense.
            info.state = NodeState.LOST.value
            info.message = told.message or "registered, not ready yet"
    elif alive is None:
        info.message = _lost(world, name)
    unreadable = [
        found.why for found in (alive, facts, wish, fence) if found is not None and found.record is None
    ]
    if unreadable:
        info.broken, info.message = True, f"broken record, left alone: {unreadable[0]}"
    return info


def _lost(world: World, name: str) -> str:
    fence = world.fence(name)
    if fence is not None and fence.record is not None:
        if fence.record.intent:
            return f"its lease expired; {fencer_words(fence.record)}"
        if fence.record.receipt is not None:
            return f"its lease expired; fenced at {fence.record.receipt.at} by {fence.record.receipt.by}"
    return "its lease expired; not fenced"


# ---------------------------------------------------------------------------------------------------------
# images, the cluster


def image_view(name: str, found: Seen[Image], users: int | None) -> ImageView:
    image = found.record
    if image is None:
        return ImageView(name=name, broken=True, message=f"broken record, left alone: {found.why}")
    return ImageView(
        name=name,
        state=image.state.value,
        uuid=image.uuid,
        format=image.format,
        size_bytes=image.size_bytes or None,
        sha256=image.sha256 or None,
        source=image.source or None,
        vms=users,
        created=image.created or None,
        by=image.by or None,
        importer=image.importer or None,
        message=image.message or None,
    )


def image_views(world: World) -> list[ImageView]:
    users: dict[str, int] = {}
    for _, found in world.specs():
        if found.record is not None:
            users[found.record.image_uuid] = users.get(found.record.image_uuid, 0) + 1
    return [
        image_view(name, found, users.get(found.record.uuid, 0) if found.record else None)
        for name, found in sorted(world.images())
    ]


def cluster_view(world: World) -> ClusterView:
    """Is the cluster fine, and if not, why."""
    nodes, vms = node_infos(world), vm_views(world)
    states, phases, problems = _counts(n.state for n in nodes), _counts(v.phase or "broken" for v in vms), []
    lost = [node.name for node in nodes if node.state == NodeState.LOST]
    joined = [node for node in nodes if not node.cordoned]
    lost_joined = [node for node in joined if node.session is None]
    held = next((node.brake for node in nodes if node.brake), "")
    brake = bool(held) or (bool(joined) and len(lost_joined) * 100 > world.config.brake_percent * len(joined))
    if not nodes:
        problems.append("no node has joined")
    if brake:
        problems.append(
            held
            or f"{len(lost_joined)} of {len(joined)} nodes are lost: the brake holds, none of them is fenced"
        )
    problems += [f"node {v.name} is not fenced: {v.trouble}" for v in fence_views(world) if v.trouble]
    problems += [f"node {node.name} is lost: {node.message}" for node in nodes if node.state == NodeState.LOST]
    problems += [f"node {node.name}: {node.message}" for node in nodes if node.broken]
    for view in vms:
        bad = view.broken or view.phase == Phase.FAILED or (view.power == "on" and view.phase != Phase.RUNNING)
        if (
            bad
            and view.phase not in (Phase.PAUSED, Phase.MIGRATING)
            and not view.deleted
            and not _resting(view)
        ):
            problems.append(
                f"vm {view.id} is {view.phase or 'broken'}: {view.message or 'no word from its node'}"
            )
    running = phases.get("running", 0)
    ready = states.get("ready", 0)
    head = f"{ready} of {len(nodes)} nodes ready, {running} of {len(vms)} VMs running"
    summary = f"ok: {head}" if not problems else f"not ok: {problems[0]} ({head})"
    return ClusterView(
        ok=not problems,
        summary=summary,
        problems=problems,
        nodes=states,
        vms=phases,
        nodes_lost=lost,
        brake_engaged=brake,
    )


def _resting(view: VmView) -> bool:
    """A guest that switched itself off is as it wants to be."""
    return view.phase == Phase.STOPPED


def _counts(values: Any) -> dict[str, int]:
    found: dict[str, int] = {}
    for value in values:
        found[value] = found.get(value, 0) + 1
    return dict(sorted(found.items()))


def _once(make: Callable[[], list[Room]]) -> Callable[[], list[Room]]:
    """Compute when first asked for, then remember."""
    found: list[list[Room]] = []

    def get() -> list[Room]:
        if not found:
            found.append(make())
        return found[0]

    return get
