"""Domain actions: boot, stop, kill and resume of a VM's domain, each step once.

Owns: booting, killing, stopping and resuming through the Hypervisor port, and the waits between boots.
Refuses: claims and statuses (:mod:`metastack.agent.reconcile.vm_reconciler`); deciding, the rulebook's.
Rule: between the last look at the session and the boot nothing is awaited.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import structlog

from ...core import plan
from ...core.domains import EndReason
from ...core.model import Claim, Fencing
from ...core.plan import VmSnapshot
from ...ports import (
    Denied,
    DomainSpec,
    Fenced,
    InUse,
    LocalTrouble,
    MissingDisk,
    NicSpec,
    NotFound,
    Refused,
    StartUnknown,
    Unavailable,
    UnknownOutcome,
)
from ..context import AgentContext
from ..fencing.fence_check import FenceCheck
from . import give_back as giveback
from .boot_gate import BootGate
from .boot_slots import BootSlots
from .drift import LOOK_EVERY_S as DRIFT_EVERY_S
from .in_flight import domain_quiet
from .vm_disk import VmDisk
from .vm_memory import VmMemory

log = structlog.get_logger()

IO_RETRY_S = 5.0
LOCK_RETRY_S = 2.0
MISSING_RETRY_S = 10.0
"""A disk that was missing is looked for this often: a person brings it back."""
HEALTHY_S = 60.0
"""A guest that ran this long has recovered: its crash count starts again."""


class DomainActions:
    """Acts on the domains of one node."""

    def __init__(self, node: AgentContext, boots: BootSlots, gate: BootGate, fence_check: FenceCheck) -> None:
        self._node, self._boots = node, boots
        self._gate, self._fence_check = gate, fence_check
        self._disk = VmDisk(node)

    async def boot(self, snapshot: VmSnapshot, memory: VmMemory) -> bool:
        """Make the disk if needed, define and start; false when it was not, which ``memory`` then explains."""
        node, vm, held = self._node, snapshot.vm, snapshot.claim
        assert snapshot.spec is not None
        assert held is not None
        spec, claim = snapshot.spec.ok, held.ok
        with self._boots.place(vm):
            if memory.order_in_flight:
                # Safety: an order without an answer (a kill, a shutdown) would land on the guest that starts.
                await self._waited_for(memory, claim.uuid)
                return False  # look again: it may have landed
            now = node.world.claim(vm)
            if now is None or now.mod != held.mod or not node.session.ready:
                return False  # decided from another claim: look again
            try:
                if foreign_owner := node.disks.foreign_owner(spec):
                    # Safety: two projects' specs may name one disk, and be claimed at once. Each claim writes
                    # its disk's record, and my view is not older than mine: the later one sees the other's.
                    raise Refused(foreign_owner)
                for nic in spec.nics:
                    await node.network.check(nic.bridge)
                await self._break_old_locks(claim, memory)
                if not await self._disk.prepare(spec, held, memory):
                    return False
                source = await node.storage.disk_source(spec.volume_uuid)
                if not await self._fence_check.proven(vm, claim, memory, again=True):
                    return False
                await node.session.prove_address()
                if not await self._gate.passes(spec, memory):
                    # Safety: whatever the records say, somebody may write to the disk.
                    return False
                entry = await node.store.get(node.keys.claim(vm))
                if entry is None or entry.mod_revision != held.mod:
                    # Safety: watches have been known to lose events. Had that of my own release been lost, this
                    # would start a VM that another node may have claimed by now.
                    log.info("informer_stale", vm=str(vm), node=node.name, key=node.keys.claim(vm))
                    await node.informer.look()
                    return False
                if node.session.number != claim.session:
                    # Safety: decided in a session that is over; nothing is awaited from here to the boot.
                    return False
                await self._start(
                    DomainSpec(
                        uuid=spec.uuid,
                        project=spec.project,
                        name=spec.name,
                        cpus=spec.cpus,
                        memory_mib=spec.memory_mib,
                        disk=source,
                        nics=tuple(NicSpec(mac=nic.mac, bridge=nic.bridge) for nic in spec.nics),
                        session=claim.session,
                        epoch=claim.epoch,
                        run=spec.run,
                        volume_uuid=spec.volume_uuid,
                        claim_node=node.name,
                    )
                )
            except Fenced as error:
                node.session.lose(f"the storage blocks this node: {error}")
                raise
            except InUse as error:
                memory.message = f"its disk is locked by a live writer; waiting for its release: {error}"
                memory.retry_at_s = asyncio.get_running_loop().time() + LOCK_RETRY_S
                return False
            except MissingDisk as error:
                if memory.message != str(error):
                    log.error("disk_missing", vm=str(vm), node=node.name, error=str(error))
                memory.failed, memory.message = True, str(error)
                memory.retry_at_s = asyncio.get_running_loop().time() + MISSING_RETRY_S
                return False
            except (Refused, Unavailable) as error:
                memory.order_in_flight = memory.order_in_flight or isinstance(error, UnknownOutcome)
                if isinstance(error, Denied) and node.keys_refused is not None and await node.keys_refused():
                    return False  # by another key: tried at once, and not counted
                memory.failed = isinstance(error, Refused | LocalTrouble)
                giveback.note(memory, error, snapshot.spec.mod)
                what = "image or disk is missing: " if isinstance(error, NotFound) else ""
                memory.message = f"cannot start on {node.name}: {what}{error}"
                memory.failures += 1
                self._back_off(memory, memory.failures)
                log.warning("boot_failed", vm=str(vm), node=node.name, epoch=claim.epoch, error=str(error))
                return False
        self.began(memory)
        memory.clients, memory.look_for_clients_s = (), 0.0
        log.info("booted", vm=str(vm), node=node.name, session=claim.session, epoch=claim.epoch, run=spec.run)
        return True

    async def _start(self, domain: DomainSpec) -> None:
        """Define and start. Without an answer in time it is this node's trouble, too, whatever comes of it."""
        try:
            await self._node.hypervisor.boot(domain)
        except UnknownOutcome as error:
            raise StartUnknown(str(error)) from error

    @staticmethod
    def began(memory: VmMemory) -> None:
        """Its guest runs, perhaps by a start that was given up: why it did not is over."""
        memory.failures = memory.node_faults = memory.failed_mod = 0
        memory.failed, memory.message, memory.retry_at_s = False, "", 0.0
        memory.gate.passed()
        memory.healthy_from_s = asyncio.get_running_loop().time()
        memory.drift_look_s = memory.healthy_from_s + DRIFT_EVERY_S
        if memory.ended:
            memory.message = f"{memory.ended}; started again"
        if memory.crashes:
            memory.message = f"crashed {memory.crashes} times; started again"

    async def _waited_for(self, memory: VmMemory, uuid: str) -> None:
        """Wait until no order without an answer can land any more; raises Unavailable while one can."""
        await domain_quiet(self._node.hypervisor, uuid)
        memory.order_in_flight = await self._node.session.leave_if_astray()

    async def _break_old_locks(self, claim: Claim, memory: VmMemory) -> None:
        if not claim.taken_from or memory.locks_broken == claim.epoch:
            return
        facts = self._node.world.facts(claim.taken_from)
        if facts is not None and facts.record is not None and facts.record.storage_addresses:
            await self._node.storage.break_locks(claim.volume_uuid, facts.record.storage_addresses)
        if self._by_clients(claim.taken_from) and await self._node.storage.locked(claim.volume_uuid):
            # Safety: a fence of single clients does not reach one that came after it.
            raise InUse(f"a client that {claim.taken_from}'s fence did not reach has it open")
        memory.locks_broken = claim.epoch

    def _by_clients(self, victim: str) -> bool:
        """Perhaps that node was fenced by single clients.

        Safety: by the setting of now, and by the receipt: the setting may have changed since the fence.
        """
        world, found = self._node.world, self._node.world.fence(victim)
        receipt = found.record.receipt if found is not None and found.record is not None else None
        by_receipt = receipt is not None and bool(receipt.clients)
        return by_receipt or world.config.fencing is Fencing.CLIENT or not world.known_config.was_read

    def _back_off(self, memory: VmMemory, times: int) -> None:
        """Wait before the next boot, twice as long every time."""
        config = self._node.world.config
        wait_s = min(config.crash_backoff_max_s, config.crash_backoff_s * 2 ** min(20, times - 1))
        memory.retry_at_s = asyncio.get_running_loop().time() + wait_s

    async def _ordered(self, memory: VmMemory, order: Awaitable[None]) -> None:
        """Await an order to a guest; one without an answer is remembered: it may still land."""
        try:
            await order
        except UnknownOutcome:
            memory.order_in_flight = True
            raise

    async def kill(self, snapshot: VmSnapshot, action: plan.Kill, memory: VmMemory) -> None:
        """Destroy and undefine; a guest that ended by itself waits before it is booted again."""
        node = self._node
        if action.over and memory.order_in_flight:
            # A start without an answer: by now it may run what was seen defined, and is wanted.
            await self._waited_for(memory, action.uuid)
            return  # look again
        await self._ordered(memory, node.hypervisor.kill(action.uuid))
        log.info("killed", vm=str(snapshot.vm), node=node.name, uuid=action.uuid, why=action.why)
        domain = next(d for d in snapshot.domains if d.uuid == action.uuid)
        if node.session.ready:
            await self._gate.leave(snapshot.vm, domain.volume_uuid, domain.clients)
        else:
            node.session.killed(domain)
        memory.drift, memory.elsewhere, memory.held_drift, memory.drift_look_s = (), "", False, 0.0
        memory.ended = ""
        if action.over and domain.end is EndReason.DESTROYED:
            memory.ended = memory.pending_event = f"was destroyed by hand on {node.name} (virsh destroy)"
            log.warning("destroyed_by_hand", vm=str(snapshot.vm), node=node.name, uuid=action.uuid)
        if action.crashed:
            now_s = asyncio.get_running_loop().time()
            if memory.healthy_from_s is not None and now_s - memory.healthy_from_s > HEALTHY_S:
                memory.crashes = 0
            memory.crashes += 1
            self._back_off(memory, memory.crashes)
            memory.message = f"QEMU or the guest crashed ({memory.crashes} times); it is started again"
            log.warning("crashed", vm=str(snapshot.vm), node=node.name, crashes=memory.crashes)
        if memory.stop_from_s is not None:
            memory.forget_stop()

    async def end_lost(self, snapshot: VmSnapshot, uuid: str, volume: str, memory: VmMemory) -> bool:
        """End a QEMU of a VM that libvirtd has no domain of; true when there was one.

        Safety: once its claim is given back, another node may start the VM.
        """
        pid = await self._gate.qemu(uuid, lost=True)
        if pid:
            await self._ordered(memory, self._node.hypervisor.kill(uuid))
            log.warning("orphan_qemu_killed", vm=str(snapshot.vm), node=self._node.name, uuid=uuid, pid=pid)
            await self._gate.leave(snapshot.vm, volume, memory.clients)
        return bool(pid)

    async def ask_to_stop(self, snapshot: VmSnapshot, uuid: str, memory: VmMemory) -> bool:
        """Press the guest's power button; true the first time."""
        now_s = asyncio.get_running_loop().time()
        domain = next(d for d in snapshot.domains if d.uuid == uuid)
        first = memory.stop_from_s is None
        if first:
            memory.stop_from_s, memory.stop_key = now_s, (uuid, domain.epoch)
        memory.asked_at_s = now_s
        await self._ordered(memory, self._node.hypervisor.shutdown(uuid))
        if first:
            log.info("shutdown_requested", vm=str(snapshot.vm), node=self._node.name)
        return first

    async def resume(self, snapshot: VmSnapshot, action: plan.ResumeGuest, memory: VmMemory) -> None:
        """Let a guest run on; after an I/O error only if the storage does not shut this node out."""
        node = self._node
        if action.why:
            # Safety: resumed only when the storage says that this node is not shut out; a fenced guest that
            # is resumed would only fail again, but its session is over anyway.
            if await node.session.shut_out():
                node.session.lose("the storage blocks this node")
                raise Refused("the storage blocks this node")
            memory.retry_at_s = asyncio.get_running_loop().time() + IO_RETRY_S
        assert snapshot.spec is not None
        domain = next((domain for domain in snapshot.domains if domain.uuid == action.uuid), None)
        if domain is not None and not domain.clients:
            # An older agent started it, or it stopped before anybody looked: nothing says which client it is.
            memory.look_for_clients_s = 0.0
            await self._gate.note_clients(snapshot.spec.ok, domain, memory)
        if not await self._gate.passes(snapshot.spec.ok, memory, resuming=True):
            # Safety: while it was paused its VM may have been started elsewhere.
            return
        memory.message, memory.failed = "", False
        await node.hypervisor.resume(action.uuid)
        log.info("resumed", vm=str(snapshot.vm), node=node.name, why=action.why)
