"""A VM as readers see it: spec, claim, status and halt as one. Pure.

Rule: the message names what the VM waits for, in the words of the part that keeps it waiting.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from metastack.core.model import Claim, Halt, Phase, VmId, VmSpec, VmStatus, is_halted
from metastack.core.placement import PlacementEngine, explain
from metastack.core.protocol.maintenance import paused
from metastack.core.state.cluster_state import ClusterState, Seen, wants_on
from metastack.core.state.keys import Kind

from ..fence.views import brake_words, fencer_words
from .placement_options import demands_text


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
    demands: list[str] = []
    """What it demands of its place, as the options that say it."""
    resources: dict[str, int] = {}
    drift: list[str] = []
    """How the guest differs from its spec, because somebody changed it by hand."""
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


def vm_views(world: ClusterState) -> list[VmView]:
    """Every VM, sorted; also those that are gone from the specs and still being removed."""
    engines = _once(lambda: PlacementEngine(world))
    ids = {VmId(*names) for kind in (Kind.VM_SPEC, Kind.CLAIM) for names in world.names(kind)}
    found = (vm_view(world, vm, engines) for vm in sorted(ids))
    return [view for view in found if view is not None]


def vm_view(
    world: ClusterState, vm: VmId, engines: Callable[[], PlacementEngine | None] | None = None
) -> VmView | None:
    """One VM, or None when there is neither a spec nor a claim.

    ``engines`` gives the placement engine for the explanation of a pending VM; None from it: no explanation.
    """
    found, held = world.spec(vm), world.claim(vm)
    if found is None:
        return None if held is None else _evacuation(world, vm, held)
    if found.record is None:
        return _broken(vm, found.why, held)
    view = _from_spec(found.record)
    if held is None:
        _unclaimed(world, found.record, view, engines or (lambda: PlacementEngine(world)))
    elif held.record is None:
        return _broken(vm, held.why, None, view)
    elif held.record.uuid != found.record.uuid:
        view.phase = (Phase.PENDING if wants_on(world, vm) else Phase.STOPPED).value
        view.message = f"{held.record.node} still removes an earlier VM of this name"
    else:
        _claimed(world, found.record, held.record, view, engines or (lambda: PlacementEngine(world)))
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
        demands=demands_text(spec),
        resources=spec.resources,
        created=spec.created or None,
        by=spec.by or None,
        reason=spec.reason or None,
        request_id=spec.request_id or None,
    )


def _broken(vm: VmId, why: str, held: Seen[Claim] | None, view: VmView | None = None) -> VmView:
    view = view or VmView(name=vm.name, project=vm.project)
    view.broken = True
    view.message = f"unreadable record, ignored: {why}"
    if held is not None and held.record is not None:
        view.node, view.epoch, view.session = held.record.node, held.record.epoch, held.record.session
    return view


def _evacuation(world: ClusterState, vm: VmId, held: Seen[Claim]) -> VmView:
    """The spec is gone; the node that owns it is removing it."""
    view = VmView(name=vm.name, project=vm.project, power="off", phase=Phase.STOPPING.value, deleted=True)
    claim = held.record
    if claim is None:
        return _broken(vm, held.why, None, view)
    view.uuid, view.volume_uuid = claim.uuid, claim.volume_uuid
    view.node, view.epoch, view.session = claim.node, claim.epoch, claim.session
    view.message = f"deleted: {claim.node} removes it"
    if world.alive(claim.node) is None:
        brake = brake_words(world, claim.node)
        view.message += f", once {claim.node}, which is lost, returns or is fenced" + (
            f"; {brake}" if brake else ""
        )
    return view


def _halted(world: ClusterState, spec: VmSpec) -> Halt | None:
    found = world.halt(spec.id)
    halt = found.record if found is not None else None
    return halt if is_halted(spec, halt) else None


def _unclaimed(
    world: ClusterState, spec: VmSpec, view: VmView, engines: Callable[[], PlacementEngine | None]
) -> None:
    if wants_on(world, spec.id):
        view.phase = Phase.PENDING.value
        engine = engines()
        view.message = None if engine is None else why_pending(spec, engine)
        return
    view.phase = Phase.STOPPED.value
    halt = _halted(world, spec)
    if halt is not None and spec.power == "on":
        view.since = halt.at or None
        view.message = halt.message or f"the guest shut itself down; `metastack vm start {spec.id}` starts it"


def why_pending(spec: VmSpec, engine: PlacementEngine) -> str:
    """Why nobody has taken the VM, in the words of the placement function that every node computes."""
    if not engine.nodes:
        return "no node has joined this cluster yet"
    wait = engine.waiting.get(spec.id)
    if wait is not None and wait.held:
        return wait.held
    verdicts = explain(engine, spec)
    fitting = [verdict.node for verdict in verdicts if verdict.fits]
    if fitting:
        return f"{fitting[0]} is to claim it"
    return "no node fits: " + "; ".join(
        f"{verdict.node}: {', '.join(verdict.reasons)}" for verdict in sorted(verdicts, key=lambda v: v.node)
    )


def _claimed(
    world: ClusterState, spec: VmSpec, claim: Claim, view: VmView, engines: Callable[[], PlacementEngine | None]
) -> None:
    view.node, view.epoch, view.session = claim.node, claim.epoch, claim.session
    view.taken_from = claim.taken_from or None
    found = world.status(spec.id)
    if found is not None and found.record is None:
        _broken(spec.id, found.why, None, view)
        return
    status = found.record if found is not None else None
    if status is None or status.uuid != spec.uuid or status.node != claim.node:
        view.phase = Phase.CLAIMED.value
        view.message = _silent(world, claim, spec, engines)
        return
    _told(world, status, claim, spec, view)


def silent_since(world: ClusterState, node: str) -> str:
    """Since when the storage of that node is silent; empty: it answers, or nobody says."""
    alive = world.alive(node)
    return alive.record.storage_silent_since if alive is not None and alive.record is not None else ""


def _told(world: ClusterState, status: VmStatus, claim: Claim, spec: VmSpec, view: VmView) -> None:
    """The owner's own words."""
    view.phase = status.phase.value
    view.ips = list(status.ips)
    view.since = status.since or None
    view.crashes = status.crashes
    view.drift = list(status.drift)
    view.retry_at = status.retry_at or None
    view.vnc = status.vnc or None
    if status.phase is Phase.RUNNING and (since := silent_since(world, claim.node)):
        # Said once by the node, and not by each of its VMs: a silent storage is silent for all of them.
        view.phase, view.since = Phase.STALLED.value, since
        view.message = f"the storage has not answered {claim.node} since {since}: the guest waits for its disk"
        return
    view.message = status.message or _remark(status, claim, spec) or None


def _remark(status: VmStatus, claim: Claim, spec: VmSpec) -> str:
    """What is worth saying when the owner says nothing."""
    if status.phase in (Phase.RUNNING, Phase.PAUSED) and spec.power == "off":
        return "asked to stop"
    if status.phase is Phase.RUNNING and status.run < spec.run:
        return "asked to restart"
    if claim.taken_from:
        paused = "; it was paused there and runs now" if claim.was_paused else ""
        return f"taken over from {claim.taken_from}{paused}"
    return ""


def _silent(
    world: ClusterState, claim: Claim, spec: VmSpec, engines: Callable[[], PlacementEngine | None]
) -> str:
    """Why a claimed VM has no status."""
    node = claim.node
    if world.alive(node) is None:
        if claim.session <= world.fenced_through(node):
            return f"node {node} is lost and fenced: {_heir(world, spec, engines)}"
        fence = world.fence(node)
        if fence is not None and fence.record is not None and fence.record.intent:
            return f"node {node} is lost: {fencer_words(fence.record)}"
        brake = brake_words(world, node)
        return f"node {node} is lost: {brake or 'another node takes the VM over once it is fenced'}"
    if world.session(node) != claim.session:
        return f"node {node} has a new session and has not adopted the VM yet"
    # Claim and status come and go together: the node's end is seen a moment later.
    return f"node {node} owns it but does not report on it now"


def _heir(world: ClusterState, spec: VmSpec, engines: Callable[[], PlacementEngine | None]) -> str:
    """The node that takes over from a fenced one, or why none does."""
    if not wants_on(world, spec.id):
        return "another node releases the VM"
    if why := paused(world):
        return f"{why}: the VM is taken over when that ends"
    engine = engines()
    return "another node takes the VM over" if engine is None else why_pending(spec, engine)


def _once(make: Callable[[], PlacementEngine]) -> Callable[[], PlacementEngine]:
    """Compute when first asked for, then remember."""
    found: list[PlacementEngine] = []

    def get() -> PlacementEngine:
        if not found:
            found.append(make())
        return found[0]

    return get
