"""Snapshots: everything that bears on one VM or one other node, read at one moment.

Owns: the views that :mod:`metastack.core.plan` decides from. Refuses: deciding or changing anything.
"""

from __future__ import annotations

import asyncio

from ...core import plan
from ...core.domains import Domain, DomainState
from ...core.host_shutdown import patience_s
from ...core.model import Claim, Phase, Power, VmId, VmStatus
from ...core.plan import VmSnapshot
from ...core.protocol.maintenance import paused
from ...core.state.record_versions import as_written_at
from ..context import AgentContext
from . import give_back as giveback
from .drift import held_words
from .vm_memory import VmMemory

ASK_EVERY_S = 5.0
"""A guest that is still booting misses its power button: press it again."""


async def look(node: AgentContext, vm: VmId, domains: tuple[Domain, ...]) -> VmSnapshot:
    """The snapshot of one VM; ``domains`` were just read from the hypervisor."""
    world, memory, session = node.world, node.memory.of(vm), node.session
    now_s = asyncio.get_running_loop().time()
    claim = world.claim(vm)
    owner = claim.record.node if claim is not None and claim.record is not None else ""
    through = max(session.fenced_through, world.fenced_through(node.name))
    mine = claim is not None and owner == node.name and claim.ok.session > through
    # A host that shuts down takes nothing more.
    turn = node.turn(vm) if session.ready and not mine and not node.host_stops() else None
    held = patience_s(world) if node.host_stops() else world.config.stop_timeout_s
    stop_left_s = None if memory.stop_from_s is None else memory.stop_from_s + held - now_s
    return VmSnapshot(
        vm=vm,
        node=node.name,
        session=0 if node.informer.etcd_untrusted else session.number,
        ready=session.ready,
        fenced_through=through,
        spec=world.spec(vm),
        claim=claim,
        halt=world.halt(vm),
        owner_fence=world.fence(owner) if owner else None,
        fence_flaw=world.fence_flaw(owner) if owner and not mine else "",
        domains=domains,
        rank=turn.rank if turn is not None else None,
        waited_s=turn.waited_s if turn is not None else 0.0,
        delay_s=turn.delay_s if turn is not None else 0.0,
        retry_in_s=max(0.0, memory.retry_at_s - now_s),
        stop_left_s=stop_left_s,
        ask_again_in_s=max(0.0, memory.asked_at_s + ASK_EVERY_S - now_s) if memory.asked_at_s else 0.0,
        host_stop=node.host_stop(vm) if mine else None,
        leave=node.leave_reason(vm, domains) if mine else "",
        give_back=giveback.why(node, vm, memory) if mine and not (domains or memory.lost) else "",
        held=node.held(),
        paused=paused(world),
        damaged=memory.damaged,
        lost=memory.lost,
        generation=session.generation,
    )


def _phase(snapshot: VmSnapshot, claim: Claim, memory: VmMemory, domain: Domain | None) -> Phase:
    if memory.stop_from_s is not None or (claim.to_release and domain is None):
        return Phase.STOPPING
    if snapshot.host_stop and domain is None:
        return Phase.STOPPING
    if domain is None or domain.state is DomainState.DEFINED:
        if memory.failed or memory.lost or memory.held_drift or plan.saved(snapshot):
            return Phase.FAILED
        return Phase.WAITING if memory.gate.since_s is not None else Phase.STARTING
    if domain.state is DomainState.RUNNING:
        return Phase.RUNNING
    if domain.state is DomainState.SHUTTING_DOWN:
        return Phase.STOPPING
    return Phase.PAUSED


SAVED = (
    "its memory was saved by hand (virsh managedsave): on {node}, virsh start resumes it; "
    "`metastack vm restart` discards it and boots the VM again"
)


def by_hand(node: AgentContext, snapshot: VmSnapshot, memory: VmMemory) -> str:
    """What somebody did to its domain that keeps this node from what the spec wants."""
    if plan.saved(snapshot):
        return SAVED.format(node=node.name)
    if memory.held_drift:
        return held_words(memory.elsewhere, node.name)
    return memory.refused


def _said(phase: Phase, claim: Claim, level: int) -> Phase:
    """The phase as readers find it: an older release's records may have no word for it.

    It is compared with what is there, like all that follows from it: were it another, the status would be
    published at every look, for ever.
    """
    status = VmStatus(uuid=claim.uuid, phase=phase, node=claim.node, session=claim.session, epoch=claim.epoch)
    return as_written_at(status, level).phase


def status_of(node: AgentContext, snapshot: VmSnapshot, domain: Domain | None) -> VmStatus:
    """What the claimant should publish about its VM right now."""
    memory = node.memory.of(snapshot.vm)
    claim = snapshot.claim.ok if snapshot.claim is not None else None
    assert claim is not None
    spec = snapshot.spec.record if snapshot.spec is not None else None
    phase = _said(_phase(snapshot, claim, memory, domain), claim, node.world.level)
    before_all = memory.damaged or memory.lost or by_hand(node, snapshot, memory)
    message = before_all or memory.message
    if memory.node_faults and not before_all:
        message += giveback.attempts_text(node, snapshot.vm, memory)
    if domain is not None and domain.state is DomainState.IO_ERROR and not memory.gate.held_by:
        message = "paused by an I/O error of its disk; resumes when the storage answers"
    elif not message and claim.to_release:
        message = f"was off when it was taken over from {claim.taken_from}; returned to pending"
    elif not message and claim.taken_from and phase in (Phase.RUNNING, Phase.STARTING):
        how = "was paused there; it runs again here" if claim.was_paused else "was started again here"
        taken = "" if claim.taken_from == node.name else "taken over from "
        message = f"{taken}{claim.taken_from}{', which' if taken else ''} was lost; {how}"
    ips: list[str] = []
    if spec is not None and phase in (Phase.RUNNING, Phase.PAUSED):
        for nic in spec.nics:
            ips.extend(node.network.addresses(nic.mac))
    old = node.world.status(snapshot.vm)
    before = old.record if old is not None else None
    ready = spec is None or not spec.ha.ready_port
    if not ready and spec is not None and domain is not None and phase is Phase.RUNNING:
        ready = node.guest_ready(spec, claim.epoch, domain.run)
    same = before is not None and before.phase is phase and before.uuid == claim.uuid
    retry = snapshot.retry_in_s > 0 and (memory.crashes > 0 or memory.failures > 0)
    return VmStatus(
        uuid=claim.uuid,
        phase=phase,
        node=node.name,
        session=claim.session,
        epoch=claim.epoch,
        run=domain.run if domain is not None else 0,
        ips=tuple(ips),
        since=before.since if same and before is not None else node.clock.stamp(),
        message=message,
        crashes=memory.crashes,
        ready=ready,
        disk_held_by=memory.gate.held_by,
        drift=memory.drift if domain is not None else (),
        elsewhere=memory.elsewhere if domain is not None else "",
        retry_at=(
            before.retry_at if same and before and before.retry_at else node.clock.stamp(snapshot.retry_in_s)
        )
        if retry
        else "",
    )


def was_paused(snapshot: VmSnapshot) -> bool:
    """The VM was meant to be paused in the epoch that is being taken over."""
    spec = snapshot.spec.record if snapshot.spec is not None else None
    claim = snapshot.claim.record if snapshot.claim is not None else None
    return (
        spec is not None
        and claim is not None
        and spec.power is Power.ON
        and bool(spec.paused_epoch)
        and spec.paused_epoch == claim.epoch
    )
