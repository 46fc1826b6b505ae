"""The rulebook: ``plan(snapshot) -> one Action``. Facts in, one step out; nothing is remembered.

Owns: what a node does about one VM (:func:`plan`) and about one other node (:func:`plan_fence`).
Refuses: clocks, I/O and steps stored from last time; after any crash the next look finds the same facts.
Rule: boot only if ready and the claim is (this node, this session); kill whatever no unfenced claim of this
node covers.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from .domains import Domain, DomainState, EndReason
from .model import Claim, Fence, Halt, Power, VmId, VmSpec, is_halted, token_generation
from .state.cluster_state import Seen


class HostStop(StrEnum):
    """What becomes of a VM whose host shuts down (core/host_shutdown)."""

    RELEASE = "release"
    """Stopped, by force if need be, and given to others."""
    KEEP = "keep"
    """Stopped, and kept for this host's return."""


HELD_S = 2.0
"""A boot that is held is looked at again this soon: what it waits for is another node's news."""


class VmSnapshot(Struct, frozen=True, kw_only=True):
    """Everything that bears on one VM at this node, looked at once."""

    vm: VmId
    node: str
    """Me."""
    session: int
    """This node's living session; 0 while it has none."""
    ready: bool
    """This node's session may claim, boot and resume."""
    fenced_through: int = 0
    """This node's sessions up to this one are shut out of the storage."""
    spec: Seen[VmSpec] | None = None
    claim: Seen[Claim] | None = None
    halt: Seen[Halt] | None = None
    owner_fence: Seen[Fence] | None = None
    """Fence record of the claim's node."""
    fence_flaw: str = ""
    """Why nothing may be built on that fence (core/state/fence_proof)."""
    domains: tuple[Domain, ...] = ()
    """Local domains of this VM's name, of whatever UUID."""
    rank: int | None = None
    """This node's place among those who would take it (0 first); None when it would not take it."""
    waited_s: float = 0.0
    """What those before this node have had."""
    delay_s: float = 0.0
    """What they get (core/placement: by the lag that each of them publishes)."""
    retry_in_s: float = 0.0
    """Wait left before the next boot of a crashing guest, or of a boot that was refused."""
    stop_left_s: float | None = None
    """Patience left for a graceful stop; None: not asked yet."""
    ask_again_in_s: float = 0.0
    """Wait left before the guest is asked to stop once more."""
    leave: str = ""
    """Why it has to run elsewhere, and is to be stopped and released now."""
    host_stop: HostStop | None = None
    """This host shuts down."""
    give_back: str = ""
    """Why it cannot be started here, while others would take it (agent/reconcile/give_back)."""
    held: str = ""
    """Why nothing may be started that does not run already (core/protocol/restored)."""
    paused: str = ""
    """Why nothing is taken over or given back (core/protocol/maintenance)."""
    damaged: str = ""
    """Why nothing may be started or released: a domain of this VM is here that does not say what it is."""
    lost: str = ""
    """Why its domain is left alone although libvirtd says that it is off: its QEMU lives."""
    generation: int = 0
    """The cluster's, as this node's session has it."""


# --- actions --------------------------------------------------------------------------------------------


class Idle(Struct, frozen=True):
    """Nothing to do; look again in ``again_in_s`` seconds if it is above 0."""

    why: str
    again_in_s: float = 0.0


class TakeClaim(Struct, frozen=True):
    """Claim the VM."""


class TakeOver(Struct, frozen=True):
    """Take the claim of a fenced session."""


class Adopt(Struct, frozen=True):
    """Bring this node's older claim into this session."""


class Boot(Struct, frozen=True):
    """Make the disk if needed, define and start."""


class Kill(Struct, frozen=True):
    """Destroy and undefine a domain."""

    uuid: str
    why: str
    crashed: bool = False
    """It ended by itself: count it, and wait longer before the next boot."""
    over: bool = False
    """Nothing runs: what is left of it is cleared away, and what may still begin is waited for."""


class AskToStop(Struct, frozen=True):
    """Send the guest its power button."""

    uuid: str


class PauseGuest(Struct, frozen=True):
    uuid: str


class ResumeGuest(Struct, frozen=True):
    uuid: str
    why: str = ""


class Retag(Struct, frozen=True):
    """Write this node's session into the domain's metadata."""

    uuid: str


class RecordHalt(Struct, frozen=True):
    """The guest switched itself off: make that durable."""


class Release(Struct, frozen=True):
    """Give the claim back."""

    drop_halt: bool = False
    penalty: str = ""
    """Why this node could not start it, and is passed over for a while."""


class Publish(Struct, frozen=True):
    """Nothing to change; see that the published status says how it is."""


class ForgetHalt(Struct, frozen=True):
    """Drop a halt record that nothing refers to any more."""


Action = (
    Idle
    | TakeClaim
    | TakeOver
    | Adopt
    | Boot
    | Kill
    | AskToStop
    | PauseGuest
    | ResumeGuest
    | Retag
    | RecordHalt
    | Release
    | Publish
    | ForgetHalt
)


def _halted(snapshot: VmSnapshot) -> bool:
    return is_halted(
        None if snapshot.spec is None else snapshot.spec.record,
        None if snapshot.halt is None else snapshot.halt.record,
    )


def wants_on(snapshot: VmSnapshot) -> bool:
    return (
        snapshot.spec is not None
        and snapshot.spec.record is not None
        and snapshot.spec.record.power is Power.ON
        and not _halted(snapshot)
    )


def _covered(snapshot: VmSnapshot, domain: Domain) -> bool:
    """The domain runs under a claim of this node that no fence reached.

    Safety: by node, not by session. A session that was lost keeps its guests (Ceph's quorum decides who may
    write, not etcd's); one that was fenced does not.
    """
    if snapshot.claim is None or snapshot.claim.record is None:
        return False
    claim = snapshot.claim.record
    return claim.node == snapshot.node and claim.uuid == domain.uuid and claim.session > snapshot.fenced_through


def plan(snapshot: VmSnapshot) -> Action:
    """One step towards what the spec wants, or why there is none."""
    if snapshot.claim is not None and snapshot.claim.record is None:
        return Idle(f"its claim cannot be read: {snapshot.claim.why}")
    if snapshot.spec is not None and snapshot.spec.record is None:
        return Idle(f"its spec cannot be read: {snapshot.spec.why}")

    # Domains first: nothing that is not covered may live, whatever else is true.
    for domain in snapshot.domains:
        if not domain.managed:
            continue
        if not _covered(snapshot, domain):
            return Kill(domain.uuid, "claimed elsewhere, fenced, or not claimed")
        if snapshot.claim is not None and domain.epoch != snapshot.claim.ok.epoch:
            # Safety: a domain of another epoch was booted under a claim that has been lost since.
            return Kill(domain.uuid, f"stale epoch {domain.epoch}")

    if not snapshot.session:
        return Idle("no session: nothing is started, no claimed guest is killed")
    if not snapshot.ready:
        return Idle("not ready")
    if snapshot.claim is None:
        return _unclaimed(snapshot)
    if snapshot.claim.ok.node != snapshot.node or snapshot.claim.ok.session <= snapshot.fenced_through:
        return _foreign(snapshot)
    if snapshot.claim.ok.session != snapshot.session:
        return Adopt()
    return _mine(snapshot)


def _unclaimed(snapshot: VmSnapshot) -> Action:
    if snapshot.halt is not None and (snapshot.spec is None or not _halted(snapshot)):
        return ForgetHalt()
    if not wants_on(snapshot):
        return Idle("nothing to run")
    return Idle(snapshot.held) if snapshot.held else _in_turn(snapshot, TakeClaim())


def _in_turn(snapshot: VmSnapshot, action: Action) -> Action:
    if snapshot.rank is None:
        return Idle("it does not fit this node")
    wait_s = snapshot.delay_s - snapshot.waited_s
    if wait_s > 0:
        return Idle(f"rank {snapshot.rank}: other nodes first", wait_s)
    return action


def _foreign(snapshot: VmSnapshot) -> Action:
    """Somebody else's claim, or this node's of a fenced session: take it over once its session is fenced."""
    claim = snapshot.claim.ok if snapshot.claim is not None else None
    fence = snapshot.owner_fence
    if claim is None or fence is None or fence.record is None or fence.record.through < claim.session:
        return Idle("claimed by another node")
    if snapshot.fence_flaw:
        return Idle(f"its fence is not valid: {snapshot.fence_flaw}")
    if why := snapshot.held or snapshot.paused:
        return Idle(why)
    return _in_turn(snapshot, TakeOver())


def _mine(snapshot: VmSnapshot) -> Action:
    spec = snapshot.spec.record if snapshot.spec is not None else None
    claim = snapshot.claim.ok if snapshot.claim is not None else None
    domain = snapshot.domains[0] if snapshot.domains else None
    assert claim is not None
    if snapshot.damaged:
        # Safety: it may be the guest, and write: released, or started once more, the VM would run twice.
        return Idle(snapshot.damaged, HELD_S)
    if spec is None or spec.uuid != claim.uuid:
        # Deleted, or created again under the same name: the disk goes too, so there is nothing to save.
        return Kill(domain.uuid, "deleted") if domain is not None else Release(drop_halt=spec is None)
    if saved(snapshot) and not claim.to_release:
        # What the guest had in memory is in a file here, by somebody's hand: it is not thrown away unasked.
        return Idle("its memory was saved by hand")
    if snapshot.host_stop is HostStop.KEEP and wants_on(snapshot) and not claim.to_release:
        return _rest(snapshot, spec, domain)
    if not wants_on(snapshot) or snapshot.leave or claim.to_release or snapshot.host_stop:
        # Safety: to_release, it was taken over while it was off. Nobody reserved capacity for it here or proved
        # its groups: switched on again, it is released all the same, and claimed by a node that proves both.
        return _stop(snapshot, spec, domain) or Release()
    if domain is None:
        if token_generation(claim.epoch) < snapshot.generation:
            # Safety: of before a restore, and no domain proves it. Under that epoch another node may have been
            # followed by a third; a node that runs the VM now does it under a new one.
            return Release()
        if snapshot.held:
            # Safety: a claim of before a restore; who else runs the VM by now is not known here.
            return Idle(snapshot.held, HELD_S)
        if snapshot.give_back and not snapshot.paused:
            # Safety: no domain of it is here. The release waits for what was sent and not answered.
            return Release(penalty=snapshot.give_back)
        if snapshot.retry_in_s > 0:
            return Idle("waiting before the next boot", snapshot.retry_in_s)
        return Boot()
    if domain.run < spec.run:
        return _stop(snapshot, spec, domain) or Boot()
    if domain.state is DomainState.DEFINED:
        if snapshot.lost:
            # Safety: undefined and booted once more, the VM would run twice. A person's restart ends that QEMU.
            return Idle(snapshot.lost, HELD_S)
        if domain.end is EndReason.SHUTDOWN:
            return RecordHalt()
        crashed = domain.end in (EndReason.CRASHED, EndReason.FAILED)
        return Kill(domain.uuid, f"ended: {domain.end.value or 'never started'}", crashed=crashed, over=True)
    if domain.session != claim.session or domain.transient:
        return Retag(domain.uuid)
    if domain.state is DomainState.IO_ERROR:
        if snapshot.retry_in_s > 0:
            return Idle("paused by an I/O error; will try to resume", snapshot.retry_in_s)
        return ResumeGuest(domain.uuid, "I/O error")
    # A pause belongs to one epoch: a VM that was paused where it was lost comes back running.
    pause = spec.paused_epoch == claim.epoch
    if pause and domain.state is DomainState.RUNNING:
        return PauseGuest(domain.uuid)
    if not pause and domain.state is DomainState.PAUSED:
        if snapshot.retry_in_s > 0:
            return Idle("another client has its disk open", snapshot.retry_in_s)
        return ResumeGuest(domain.uuid)
    return Publish()


def _rest(snapshot: VmSnapshot, spec: VmSpec, domain: Domain | None) -> Action:
    """Stopped with its host, and kept for its return. No other node waits for it, so it is not forced off."""
    if domain is not None and domain.state is not DomainState.DEFINED:
        if domain.state in (DomainState.PAUSED, DomainState.IO_ERROR):
            return Idle("paused: its host ends it")
        if snapshot.stop_left_s is not None and snapshot.stop_left_s <= 0:
            return Idle("did not shut down in time: its host ends it")
    return _stop(snapshot, spec, domain) or Idle("kept for the return of its host")


def saved(snapshot: VmSnapshot) -> bool:
    """Its guest's memory was saved by hand, and it is meant to run on as it was: nobody asked for a restart."""
    domain, spec = (
        snapshot.domains[0] if snapshot.domains else None,
        snapshot.spec.record if snapshot.spec is not None else None,
    )
    if domain is None or spec is None or not wants_on(snapshot) or domain.run < spec.run:
        return False
    return domain.state is DomainState.DEFINED and domain.end is EndReason.SAVED


def _stop(snapshot: VmSnapshot, spec: VmSpec, domain: Domain | None) -> Action | None:
    """The next step of stopping a domain; None when it is gone."""
    if domain is None:
        return None
    if domain.state is DomainState.DEFINED:
        return Kill(domain.uuid, "stopped")
    if spec.force or domain.state in (DomainState.PAUSED, DomainState.IO_ERROR):
        return Kill(domain.uuid, "forced off" if spec.force else "stopped while paused")
    if snapshot.stop_left_s is not None and snapshot.stop_left_s <= 0:
        return Kill(domain.uuid, "did not shut down in time")
    if snapshot.ask_again_in_s > 0:
        return Idle("shutting down", snapshot.ask_again_in_s)
    return AskToStop(domain.uuid)


# --- fencing --------------------------------------------------------------------------------------------


class FenceSnapshot(Struct, frozen=True, kw_only=True):
    """Everything that bears on another node's death."""

    victim: str
    node: str
    session: int
    ready: bool
    victim_alive: bool
    absent_for_s: float
    """Since its alive key was seen to be absent."""
    grace_s: float
    unfenced_claims: int
    """Claims of its sessions that no done fence reaches."""
    fence: Seen[Fence] | None
    fencer_alive: bool
    """The node that holds an open intent is alive."""
    working: bool
    """This node is blocking that node right now."""
    braked: str
    """Why the mass brake holds; empty when it does not."""
    paused: str = ""
    """Why nothing is fenced: maintenance (core/protocol/maintenance)."""
    expected: str = ""
    """Why this node is not fenced: its host is expected back (core/protocol/host_return)."""
    rank: int | None
    waited_s: float
    rank_delay_s: float
    suspected: str = ""
    """Why it is fenced although it owns nothing: a client at its address has a disk open."""
    holdoff_s: float = 0.0
    """This node tried and the storage did not let it: wait left before it tries again."""
    away: str = ""
    """It has not come back since etcd was restored: only a person knows whether it is dead."""
    generation: int = 0


class OpenIntent(Struct, frozen=True):
    """Open a fence."""


class TakeOverIntent(Struct, frozen=True):
    """Go on with an open fence of another node, or of an earlier session of this node."""


class ContinueFence(Struct, frozen=True):
    """Block: the open fence is this node's, in this session."""


FenceAction = Idle | OpenIntent | TakeOverIntent | ContinueFence


def plan_fence(snapshot: FenceSnapshot) -> FenceAction:
    """Whether this node should fence that node now."""
    if not snapshot.session or not snapshot.ready:
        return Idle("not ready")
    if snapshot.working:
        return Idle("fencing it right now")
    if snapshot.fence is not None and snapshot.fence.record is None:
        return Idle(f"its fence record cannot be read: {snapshot.fence.why}")
    by_hand = (
        snapshot.fence is not None
        and snapshot.fence.ok.intent
        and snapshot.fence.ok.generation >= snapshot.generation
    )
    if snapshot.away and not by_hand:
        return Idle(snapshot.away)
    if snapshot.fence is not None and snapshot.fence.ok.intent:
        # Also when the victim is back: it waits for this intent to end (a live fencer) or cancels it.
        if snapshot.holdoff_s > 0:
            return Idle("the storage refused the fence: trying again", snapshot.holdoff_s)
        if snapshot.fence.ok.intent_by == snapshot.node:
            return ContinueFence() if snapshot.fence.ok.intent_session == snapshot.session else TakeOverIntent()
        if snapshot.fencer_alive or snapshot.rank is None:
            return Idle("another node is fencing it")
        return _fence_in_turn(snapshot, TakeOverIntent())
    if snapshot.victim_alive:
        return Idle("it is alive")
    if not snapshot.unfenced_claims and not snapshot.suspected:
        return Idle("it owns no VM")
    if snapshot.absent_for_s < snapshot.grace_s:
        return Idle("grace", snapshot.grace_s - snapshot.absent_for_s)
    if why := snapshot.paused or snapshot.expected:
        return Idle(why)
    if snapshot.braked:
        return Idle(snapshot.braked, 5.0)
    if snapshot.holdoff_s > 0:
        return Idle("the storage refused the fence: other nodes first", snapshot.holdoff_s)
    return _fence_in_turn(snapshot, OpenIntent())


def _fence_in_turn(snapshot: FenceSnapshot, action: FenceAction) -> FenceAction:
    if snapshot.rank is None:
        return Idle("other nodes fence")
    wait_s = snapshot.rank * snapshot.rank_delay_s * 4 - snapshot.waited_s
    return Idle(f"rank {snapshot.rank}: other nodes first", wait_s) if wait_s > 0 else action
