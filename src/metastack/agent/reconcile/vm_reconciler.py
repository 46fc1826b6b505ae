"""The VM reconciler: look, decide one action, prove in the transaction that it is still allowed, do it.

Owns: one VM's reconciliation at this node.
Refuses: deciding (core/plan) and guarding (core/protocol/claims).
Rule: after a transaction whose outcome is unknown, nothing is decided on that VM until it is settled.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from ...core import plan
from ...core.domains import Domain, DomainState, of_another
from ...core.model import Claim, Event, Halt, Phase, VmId, VmStatus
from ...core.plan import VmSnapshot
from ...core.protocol import broken_locks as locks
from ...core.protocol import claims
from ...core.state.cluster_state import Seen, mod_of, seen
from ...ports import Unavailable, UnknownOutcome
from ..context import AgentContext
from ..fencing.fence_check import FenceCheck
from ..report.health import damaged
from . import give_back as giveback
from .boot_gate import BootGate
from .boot_slots import BootSlots
from .claim_batch import ClaimBatch
from .claimer import Claimer, log_owned
from .domain_actions import HEALTHY_S, DomainActions
from .drift import HELD_S, DriftDetector
from .in_flight import domain_quiet
from .snapshot import look, status_of
from .vm_memory import VmMemory

log = structlog.get_logger()

MOST_STEPS = 32
"""Steps of one VM before others get their turn."""


class VmReconciler:
    """Works on VMs, one look at a time."""

    def __init__(self, node: AgentContext, boots: BootSlots, again: Callable[[VmId], None]) -> None:
        """``again`` has a VM looked at."""
        self._node = node
        self._gate, self._fence_check = BootGate(node), FenceCheck(node)
        self._domain_actions = DomainActions(node, boots, self._gate, self._fence_check)
        self._boots = boots
        self._claims = ClaimBatch(node, again)
        self._claimer = Claimer(node, self._claims)
        self._drift = DriftDetector(node)
        self.known: dict[VmId, set[str]] = {}
        """UUIDs of local domains by VM name, as last seen."""

    async def reconcile(self, vm: VmId) -> float:
        """Bring one VM a few steps on; returns seconds until it should be looked at again (0: on change)."""
        for _ in range(MOST_STEPS):
            # Safety: looked up at each step, for a release forgets it. What is noted of the claim after it (a
            # call in flight, an open transaction) must be found by that one's release.
            memory = self._node.memory.of(vm)
            if memory.claim_in_flight:
                await self._settle(vm, memory)
            snapshot = await look(self._node, vm, await self._domains(vm))
            self._note(snapshot, memory)
            if await self._break_lock(snapshot, memory):
                continue
            action = plan.plan(snapshot)
            if isinstance(action, plan.Boot):
                assert snapshot.spec is not None
                if not self._boots.enter(vm, snapshot.spec.ok.ha.priority, snapshot.spec.mod):
                    return 0.0  # it is looked at again when a place is free
            else:
                self._boots.withdraw(vm)
            if isinstance(action, plan.Idle):
                return await self._idle(snapshot, action, memory)
            if await self._drift.holds(snapshot, action, memory):
                await self._publish(snapshot)
                return HELD_S
            if isinstance(action, plan.Publish):
                memory.held_drift = False
                await self._publish(snapshot)
                if snapshot.spec is not None and await self._drift.look(snapshot, memory):
                    await self._publish(snapshot)
                # A paused guest that an older agent started is resumed only when its client is known.
                if snapshot.spec is not None and snapshot.domains[0].state in (
                    DomainState.RUNNING,
                    DomainState.PAUSED,
                ):
                    await self._gate.note_clients(snapshot.spec.ok, snapshot.domains[0], memory)
                return self._watch_health(snapshot, memory)
            try:
                await self._do(snapshot, action, memory)
            except UnknownOutcome:
                memory.claim_in_flight = True
                raise
        return 0.05

    # --- looking

    async def _domains(self, vm: VmId) -> tuple[Domain, ...]:
        """Local domains of this name, read now; libvirt is asked only when there can be any."""
        world = self._node.world
        uuids = set(self.known.get(vm, ()))
        claim = world.claim(vm)
        if claim is not None and claim.record is not None and claim.record.node == self._node.name:
            uuids.add(claim.record.uuid)
        found = [await self._node.hypervisor.domain(uuid) for uuid in sorted(uuids)]
        self._node.memory.of(vm).damaged = next(
            (damaged(domain) for domain in found if domain is not None and domain.damaged), ""
        )
        # Safety: somebody else's domain with this VM's UUID is not the VM; a boot is refused while it is there.
        # Nor is another VM's, whose record was copied: its own look takes care of it.
        domains = tuple(
            domain
            for domain in found
            if domain is not None and domain.managed and (domain.project, domain.name) == (vm.project, vm.name)
            if not of_another(domain, self._node.name)
        )
        await self._note_lost(vm, domains)
        if domains:
            self.known[vm] = {domain.uuid for domain in domains}
        else:
            self.known.pop(vm, None)
        return domains

    async def _note_lost(self, vm: VmId, domains: tuple[Domain, ...]) -> None:
        """A domain that does not run by libvirtd's word, while its QEMU lives.

        Safety: a libvirtd that had lost the state file of a running guest reported it as "never started".
        """
        memory = self._node.memory.of(vm)
        memory.lost = ""
        for domain in domains:
            if domain.clients:
                memory.clients = domain.clients
            if domain.state is DomainState.DEFINED:
                pid = await self._gate.qemu(domain.uuid, lost=True)
                if pid:
                    memory.lost = (
                        f"its QEMU (process {pid}) runs on {self._node.name}, and libvirtd has lost it: "
                        f"restart the VM, or kill {pid}; until then it does not start"
                    )

    def _note(self, snapshot: VmSnapshot, memory: VmMemory) -> None:
        """Forget a stop that is over: another domain, or none; and why a guest did not start that runs."""
        domain = snapshot.domains[0] if snapshot.domains else None
        key = (domain.uuid, domain.epoch) if domain is not None else ("", 0)
        running = domain is not None and domain.state is not DomainState.DEFINED
        again = domain is not None and plan.wants_on(snapshot) and not (snapshot.leave or snapshot.host_stop)
        again = again and domain is not None and domain.run >= snapshot.spec.ok.run  # type: ignore[union-attr]
        if running and memory.failures:
            self._domain_actions.began(memory)
        elif snapshot.spec is not None:
            giveback.renew(memory, snapshot.spec.mod)
        if memory.stop_from_s is not None and (not running or key != memory.stop_key or again):
            memory.forget_stop()

    async def _still_so(self, snapshot: VmSnapshot) -> bool:
        """Ask etcd itself whether claim and spec are as the snapshot has them, before a domain is destroyed.

        Safety: watches have been known to lose events. A node that missed its own claim's must not kill its VM.
        """
        node = self._node
        expected = {
            node.keys.claim(snapshot.vm): mod_of(snapshot.claim),
            node.keys.vm_spec(snapshot.vm): mod_of(snapshot.spec),
        }
        for key, revision in expected.items():
            entry = await node.store.get(key)
            if (entry.mod_revision if entry is not None else 0) != revision:
                log.info("informer_stale", vm=str(snapshot.vm), node=node.name, key=key)
                await node.informer.look()
                return False
        return True

    async def _settle(self, vm: VmId, memory: VmMemory) -> None:
        """Make sure that no transaction of this node whose outcome is unknown can still land.

        Safety: a release that lands after this node booted again would leave a running VM that no session owns.
        Every late change of this node compares the claim's revision or its absence; putting this node's own
        claim once more moves that revision. A claim that did not land yet is recalled before it is looked for.
        """
        node = self._node
        await self._claims.recall(vm)
        entry = await node.store.get(node.keys.claim(vm))
        if entry is not None:
            held = seen(Claim, entry)
            if held.record is not None and held.record.session == node.session.number:
                found = node.world.status(vm)
                status = found.record if found is not None else None
                if status is not None and status.session != held.record.session:
                    status = None  # of the owner before: the informer has not seen this node's status
                fresh = status or VmStatus(
                    uuid=held.record.uuid,
                    phase=Phase.STARTING,
                    node=node.name,
                    session=held.record.session,
                    epoch=held.record.epoch,
                    since=node.clock.stamp(),
                )
                if not await node.commit(claims.adopt(node.keys, node.session.me, vm, held, fresh)):
                    raise Unavailable(f"{vm}: the outcome of the last transaction is still open")
            else:
                await node.informer.reached(entry.mod_revision)
        else:
            # Safety: it may have been my release that took the claim away, and the informer may still show it.
            await node.informer.look()
        memory.claim_in_flight = False
        self._claims.free(vm)

    # --- acting

    async def _do(self, snapshot: VmSnapshot, action: plan.Action, memory: VmMemory) -> None:
        match action:
            case plan.TakeClaim():
                await self._claimer.claim(snapshot, memory)
            case plan.TakeOver():
                await self._claimer.take_over(snapshot)
            case plan.Adopt():
                await self._adopt(snapshot, memory)
            case plan.Boot():
                if await self._domain_actions.boot(snapshot, memory) and snapshot.claim is not None:
                    self.known.setdefault(snapshot.vm, set()).add(snapshot.claim.ok.uuid)
            case plan.Kill():
                if await self._still_so(snapshot):
                    await self._domain_actions.kill(snapshot, action, memory)
            case plan.AskToStop():
                if await self._domain_actions.ask_to_stop(snapshot, action.uuid, memory):
                    await self._publish(await look(self._node, snapshot.vm, snapshot.domains))
            case plan.PauseGuest():
                await self._node.hypervisor.pause(action.uuid)
                log.info("paused", vm=str(snapshot.vm), node=self._node.name)
            case plan.ResumeGuest():
                await self._domain_actions.resume(snapshot, action, memory)
            case plan.Retag():
                claim = self._held(snapshot).ok
                await self._node.hypervisor.retag(action.uuid, claim.session, claim.epoch, self._node.name)
            case plan.RecordHalt():
                await self._halt(snapshot)
            case plan.Release():
                await self._release(snapshot, action)
            case plan.ForgetHalt() if snapshot.halt is not None:
                node = self._node
                await node.commit(
                    claims.forget_halt(node.keys, node.session.me, snapshot.vm, snapshot.halt, snapshot.spec)
                )
            case _:
                raise AssertionError(f"no way to do {action}")

    async def _break_lock(self, snapshot: VmSnapshot, memory: VmMemory) -> bool:
        """Carry out what a person asked about who has the disk open; true when something was asked."""
        node = self._node
        found, held = node.world.break_lock(snapshot.vm), snapshot.claim
        if found is None or not snapshot.ready or held is None or held.record is None:
            return False
        if held.record.node != node.name or held.record.session != node.session.number:
            return False
        try:
            what, message = await self._gate.break_lock(snapshot, memory, found)
        except Unavailable as error:
            # The request stays; whatever else the VM needs goes on.
            log.info("break_lock_deferred", vm=str(snapshot.vm), node=node.name, error=str(error))
            return False
        request = found.record
        ident = request.request_id if request is not None else node.clock.ident()[:12]
        event = Event(
            at=node.clock.stamp(),
            by=f"node/{node.name}",
            what=what,
            object=f"vm {snapshot.vm}",
            message=message,
            reason=request.reason if request is not None else "",
            request_id=ident,
        )
        key = (
            locks.answered_at(node.keys, request)
            if request is not None
            else node.keys.event(node.clock.ms(), ident)
        )
        if await node.commit(locks.answer(node.keys, node.session.me, snapshot.vm, held, found, key, event)):
            memory.retry_at_s = 0.0
            log.warning("break_lock_answered", vm=str(snapshot.vm), node=node.name, what=what, message=message)
        return True

    def _held(self, snapshot: VmSnapshot) -> Seen[Claim]:
        assert snapshot.claim is not None
        return snapshot.claim

    async def _adopt(self, snapshot: VmSnapshot, memory: VmMemory) -> None:
        node, old = self._node, self._held(snapshot)
        before = node.world.status(snapshot.vm)
        if before is not None and before.record is not None and not memory.crashes:
            memory.crashes = before.record.crashes
        status = status_of(node, snapshot, snapshot.domains[0] if snapshot.domains else None)
        status = msgspec.structs.replace(status, session=node.session.number)
        if await node.commit(claims.adopt(node.keys, node.session.me, snapshot.vm, old, status)):
            log_owned(node, "adopted", snapshot.vm)

    async def _halt(self, snapshot: VmSnapshot) -> None:
        node, held = self._node, self._held(snapshot)
        assert snapshot.spec is not None
        spec = snapshot.spec.ok
        message = "the guest powered itself off; it stays off until it is started"
        record = Halt(uuid=spec.uuid, run=spec.run, at=node.clock.stamp(), node=node.name, message=message)
        status = VmStatus(
            uuid=spec.uuid,
            phase=Phase.STOPPED,
            node=node.name,
            session=held.ok.session,
            epoch=held.ok.epoch,
            run=spec.run,
            since=node.clock.stamp(),
            message=message,
        )
        change = claims.halt(
            node.keys,
            node.session.me,
            snapshot.vm,
            held,
            snapshot.spec,
            record,
            status,
            node.event("vm.halted", str(snapshot.vm), message),
        )
        if await node.commit(change):
            log.info("halted", vm=str(snapshot.vm), node=node.name, epoch=held.ok.epoch)

    async def _release(self, snapshot: VmSnapshot, action: plan.Release) -> None:
        node, held = self._node, self._held(snapshot)
        memory = node.memory.of(snapshot.vm)
        if memory.order_in_flight or memory.disk_in_flight:
            # Safety: a start that lands after the release would run a VM that no session owns. Nor may a disk
            # be made after the release: no record would lead to it.
            await domain_quiet(node.hypervisor, held.ok.uuid)
            await node.storage.quiesce()
            if await node.session.leave_if_astray():
                return  # only the next session's barrier ends it
            memory.order_in_flight = memory.disk_in_flight = False
            return  # look again: it may have landed
        if await self._domain_actions.end_lost(snapshot, held.ok.uuid, held.ok.volume_uuid, memory):
            return  # look again
        if not await self._fence_check.proven(snapshot.vm, held.ok, memory, again=False):
            # Safety: the node that claims it then looks at no fence of its earlier owners.
            raise Unavailable(f"{snapshot.vm}: {memory.message}")
        if action.penalty:
            await giveback.give(node, snapshot, action.penalty)
            return
        drop = action.drop_halt and snapshot.halt is not None
        event = node.event("vm.released", str(snapshot.vm))
        disk = node.world.volume(snapshot.vm.project, held.ok.volume_uuid)
        if disk is not None and (disk.record is None or snapshot.spec is None):
            disk = None  # unreadable, or to be removed
        change = claims.release(node.keys, node.session.me, snapshot.vm, held, drop, event, disk)
        if await node.commit(change):
            node.memory.forget(snapshot.vm)
            log.info("released", vm=str(snapshot.vm), node=node.name, epoch=held.ok.epoch)

    # --- telling

    def note_refused(self, vm: VmId, why: str) -> None:
        """A step of this VM is refused again and again, or, empty, not any more: its next status says so."""
        if why:
            self._node.memory.of(vm).refused = f"a step is refused again and again: {why}"
        elif vm in self._node.memory.vms:
            self._node.memory.of(vm).refused = ""

    async def publish(self, vm: VmId) -> None:
        """Publish its status now, though a step is still to be done."""
        await self._publish(await look(self._node, vm, await self._domains(vm)))

    async def _publish(self, snapshot: VmSnapshot) -> None:
        """Publish the status if it differs from what is there."""
        node, held = self._node, snapshot.claim
        if held is None or held.record is None or held.record.session != node.session.number:
            return
        status = status_of(node, snapshot, snapshot.domains[0] if snapshot.domains else None)
        old = node.world.status(snapshot.vm)
        before = old.record if old is not None else None
        if before == status:
            return
        moved = before is None or before.phase is not status.phase
        memory = node.memory.of(snapshot.vm)
        extra = [*(node.event(f"vm.{status.phase.value}", str(snapshot.vm), status.message) if moved else ())]
        if told_now := memory.pending_event:
            extra += node.event("vm.ended", str(snapshot.vm), told_now)
        if not await node.commit(claims.publish(node.keys, node.session.me, snapshot.vm, held, status, extra)):
            return
        if memory.pending_event == told_now:
            memory.pending_event = ""
        if moved:
            log.info(
                status.phase.value,
                vm=str(snapshot.vm),
                node=node.name,
                session=status.session,
                epoch=status.epoch,
                message=status.message,
            )

    async def _idle(self, snapshot: VmSnapshot, action: plan.Idle, memory: VmMemory) -> float:
        node, held = self._node, snapshot.claim.record if snapshot.claim is not None else None
        if held is not None and snapshot.session and held.session == snapshot.session:
            await self._publish(snapshot)
        elif (snapshot.claim is None or (held is not None and held.node != node.name)) and not (
            snapshot.domains
            or memory.claim_in_flight
            or memory.order_in_flight
            or snapshot.vm in node.turns.to_release
        ):
            node.memory.forget(snapshot.vm)  # another's, or nobody's: nothing of it is worth keeping here
        return action.again_in_s

    def _watch_health(self, snapshot: VmSnapshot, memory: VmMemory) -> float:
        """A guest that crashed before is looked at again when it counts as recovered."""
        if not memory.crashes or memory.healthy_from_s is None:
            return 0.0
        left_s = memory.healthy_from_s + HEALTHY_S - asyncio.get_running_loop().time()
        if left_s > 0:
            return left_s + 0.1
        memory.crashes, memory.message = 0, ""
        return 0.05
