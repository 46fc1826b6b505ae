"""The boot gate of a node: before a guest runs, the storage is asked which clients have its disk open.

Owns: asking, and carrying out what :mod:`metastack.core.boot_gate` decides. Refuses: that decision.
Rule: it is asked before the last read of the claim: between that and the start nothing is awaited.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from ...core import boot_gate as gate
from ...core.domains import Domain, DomainState, Opener
from ...core.model import BreakLock, Fencing, VmId, VmSpec
from ...core.plan import VmSnapshot
from ...core.state.cluster_state import Seen
from ...ports import Fenced, Refused, Unavailable, UnknownOutcome
from ..context import AgentContext
from .vm_memory import VmMemory

log = structlog.get_logger()

ROUNDS: Final = 8
"""Clients that are dealt with one after the other, before others get their turn."""
ASK_S: Final = 10.0
"""A storage that does not say for so long who has a disk open is silent."""
ASK_AGAIN_S: Final = 2.0
ASK_AGAIN_MAX_S: Final = 30.0
LEAVE_S: Final = 5.0
"""For so long a kill waits until what its guest left in the storage is cleared away."""
LOOK_AGAIN_S: Final = 10.0


class BootGate:
    """Lets guests of one node run, or not."""

    def __init__(self, node: AgentContext) -> None:
        self._node = node

    async def passes(self, spec: VmSpec, memory: VmMemory, *, resuming: bool = False) -> bool:
        """Nobody else has the disk open; false when somebody has, which ``memory`` then explains.

        Raises Unavailable or Denied when the storage does not tell: then nothing starts either.
        """
        left: set[str] = set()
        for _ in range(ROUNDS):
            asked = await self._ask(spec, memory, resuming)
            verdict = gate.judge(asked)
            match verdict:
                case gate.AllowBoot():
                    memory.gate.passed()
                    return True
                case gate.BreakLock(client, address):
                    if client in left:
                        return True  # shut out, so harmless: the guest waits for its lock by itself
                    left.add(client)
                    await self._node.storage.break_locks(spec.volume_uuid, (address,))
                case gate.EvictClient(client, why, dead):
                    await self._evict(spec.id, spec.volume_uuid, client, dead=dead, why=why)
                case gate.FenceFirst(node, opener):
                    told = gate.told(gate.WaitForClient(opener, f"node {node}, which is lost"))
                    self._node.suspect(node, f"{spec.id}: {told}")
                    self._waits(spec, memory, opener, f"{told}: it is fenced first", soon=True)
                    return False
                case gate.WaitForClient(opener, _, soon):
                    self._waits(spec, memory, opener, gate.told(verdict), soon)
                    return False
        self._waits(spec, memory, Opener(client="new clients"), "new clients open its disk", soon=False)
        return False

    # --- asking

    async def _ask(self, spec: VmSpec, memory: VmMemory, resuming: bool) -> gate.GateView:
        node = self._node
        pid = await self.qemu(spec.uuid, lost=not resuming)
        try:
            async with asyncio.timeout(ASK_S):
                openers = await self._openers(spec.volume_uuid)
        except TimeoutError:
            raise Unavailable(f"the storage does not report the clients of disk {spec.volume_uuid}") from None
        if not openers:
            memory.gate.unwatched_from_s.clear()
            return gate.GateView(openers=(), node=node.name, resuming=resuming, pid=pid)
        world = node.world
        shared = world.config.fencing is Fencing.CLIENT or not world.known_config.was_read
        return gate.GateView(
            openers=openers,
            node=node.name,
            resuming=resuming,
            own=frozenset(memory.clients),
            here=await node.session.seen_at(),
            pid=pid,
            shared=shared,
            nodes=self._addresses(),
            alive=frozenset(name for name in world.nodes() if world.alive(name) is not None),
            unwatched_s=_unwatched(memory, openers),
        )

    async def qemu(self, uuid: str, *, lost: bool) -> int:
        """The process of that UUID's QEMU on this host; ``lost``: only one that libvirtd does not know."""
        hypervisor = self._node.hypervisor
        pid = (await hypervisor.emulators()).get(uuid, 0)
        if pid and lost:
            # Somebody else's domain, or another VM's whose record was copied, is known: a boot is refused.
            domain = await hypervisor.domain(uuid)
            if domain is not None and domain.state is not DomainState.DEFINED:
                return 0
        return pid

    async def _openers(self, volume: str) -> tuple[Opener, ...]:
        try:
            return await self._node.storage.openers(volume)
        except UnknownOutcome as error:
            raise Unavailable(str(error)) from None  # it was only a question

    def _addresses(self) -> dict[str, str]:
        """Storage address to the other node that declared it; one of several nodes proves nothing."""
        world, found = self._node.world, dict[str, str]()
        for name in world.nodes():
            facts = world.facts(name)
            if name != self._node.name and facts is not None and facts.record is not None:
                for address in facts.record.storage_addresses:
                    found[address] = "" if address in found else name
        return found

    # --- acting

    async def _evict(self, vm: VmId, volume: str, client: str, *, dead: bool, why: str) -> None:
        await self._node.storage.evict(volume, client, dead=dead)
        log.warning("client_evicted", vm=str(vm), node=self._node.name, client=client, why=why)

    def _waits(self, spec: VmSpec, memory: VmMemory, opener: Opener, what: str, soon: bool) -> None:
        """Say who is in the way, and look again: soon at first, later less often."""
        at_gate, now_s = memory.gate, asyncio.get_running_loop().time()
        if at_gate.since_s is None or at_gate.held_by != opener.client:
            log.warning("disk_held", vm=str(spec.id), node=self._node.name, client=opener.client, what=what)
        at_gate.since_s = now_s if at_gate.since_s is None else at_gate.since_s
        at_gate.held_by = opener.client
        late = now_s - at_gate.since_s >= gate.PATIENCE_S
        at_gate.failed = late
        at_gate.tries = at_gate.tries + 1 if late and not soon else 0
        again_s = min(ASK_AGAIN_MAX_S, ASK_AGAIN_S * 2 ** min(10, at_gate.tries))
        memory.retry_at_s = now_s + again_s
        todo = f"; {gate.WHAT_TO_DO.format(name=spec.id)}" if late and opener.address else ""
        memory.message = f"{what}{todo}"
        memory.failed = late

    async def break_lock(
        self, snapshot: VmSnapshot, memory: VmMemory, found: Seen[BreakLock]
    ) -> tuple[str, str]:
        """Do what a person asked about one client; the answer's name and its message.

        Raises Unavailable when the storage does not answer: the request stays.
        """
        request, held, spec = (
            found.record,
            snapshot.claim,
            snapshot.spec.record if snapshot.spec is not None else None,
        )
        refused = "vm.break-lock.refused"
        if request is None:
            return refused, f"the request cannot be read: {found.why}"
        if held is None or spec is None or request.claim != held.mod or request.uuid != spec.uuid:
            return refused, "its claim has changed since: check again which client has the disk open"
        running = any(domain.state is not DomainState.DEFINED for domain in snapshot.domains)
        try:
            asked = await self._ask(spec, memory, running)
            opener = next((one for one in asked.openers if one.client == request.client), None)
            if opener is None:
                return "vm.break-lock.gone", f"{request.client} closed the disk by itself"
            if why := gate.may_break(asked, opener):
                return refused, why
            why = f"asked for by {request.by}: {request.reason}"
            await self._evict(spec.id, spec.volume_uuid, opener.client, dead=False, why=why)
        except Refused as error:
            return refused, str(error)  # answered: else it would stand before all that the VM needs
        return "vm.break-lock.done", f"{opener.client} is blocked, and its lock is broken"

    # --- its own clients

    async def note_clients(self, spec: VmSpec, domain: Domain, memory: VmMemory) -> None:
        """Write down which client of the storage a guest's QEMU is, once, while it runs.

        Only where exactly one client of this host has the disk open: of two nobody knows which is QEMU.
        """
        node, now_s = self._node, asyncio.get_running_loop().time()
        if domain.clients or not node.addresses or now_s < memory.look_for_clients_s:
            return
        memory.look_for_clients_s = now_s + LOOK_AGAIN_S
        here = await node.session.seen_at()
        found = [one for one in await self._openers(spec.volume_uuid) if one.address in here]
        here_open = [one for one in found if not (one.by_hand or one.shut_out)]
        # A guest that waited for its storage for long may have lost its watch, and holds its lock still.
        mine = [one.client for one in here_open if one.watching] or [one.client for one in here_open]
        if len(mine) == 1:
            memory.clients = (mine[0],)
            await node.hypervisor.note_clients(domain.uuid, memory.clients)

    async def leave(self, vm: VmId, volume: str, clients: tuple[str, ...]) -> None:
        """After a kill: clear away what its QEMU left in the storage, so that no node waits for it.

        Before its claim is given back, since the node that starts the VM next cannot know that this process has
        ended. For comfort: that node would wait, and find out. So a silent storage holds nothing up for long.
        """
        if not clients:
            return
        try:
            async with asyncio.timeout(LEAVE_S):
                for opener in await self._openers(volume):
                    if opener.client in clients and not opener.by_hand:
                        why = "its QEMU on this host was killed"
                        await self._evict(vm, volume, opener.client, dead=True, why=why)
        except Fenced:
            pass  # shut out for now: the session's way back has it stay so
        except (TimeoutError, Unavailable, Refused) as error:
            log.warning("client_evict_failed", vm=str(vm), node=self._node.name, error=str(error))


def _unwatched(memory: VmMemory, openers: tuple[Opener, ...]) -> dict[str, float]:
    """How long each client has been seen to hold a lock without watching."""
    now_s = asyncio.get_running_loop().time()
    known = memory.gate.unwatched_from_s
    memory.gate.unwatched_from_s = {
        opener.client: known.get(opener.client, now_s) for opener in openers if not opener.watching
    }
    return {client: now_s - from_s for client, from_s in memory.gate.unwatched_from_s.items()}
