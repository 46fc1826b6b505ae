"""The in-memory twin of the Hypervisor port: a host whose guests are entries in a dictionary.

Owns: enough of libvirt's manners that an agent cannot tell the difference, on any event loop.
Refuses: clocks, threads, randomness: only ``asyncio.sleep``, so that a simulator's loop decides about time.
Rule: a domain is changed only by a request that took effect (:mod:`.daemon`), or by a guest's own end.
"""

from __future__ import annotations

import asyncio
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Final

import msgspec

from metastack.core.domains import Live
from metastack.core.model import Resources
from metastack.ports import (
    CephSecret,
    ConsoleStream,
    Domain,
    DomainEvent,
    DomainSpec,
    DomainState,
    EndReason,
    Exists,
    HostFacts,
    InUse,
    NotFound,
    Refused,
    Unavailable,
)

from .calls import defined, opens
from .daemon import MemoryDaemon
from .streams import EventQueue, MemoryConsole

_ACTIVE: Final = frozenset(DomainState) - {DomainState.DEFINED}


class MemoryHypervisor(MemoryDaemon):
    """A host. ``locks`` (disk path to host uuid) is shared between hosts whose disks are the same.

    It outlives the agents that use it: ``open`` and ``close`` may be called again and again.
    """

    def __init__(
        self,
        *,
        uuid: str = "00000000-0000-4000-8000-000000000001",
        capacity: Resources | None = None,
        call_s: float = 0.0,
        boot_s: float = 0.0,
        graceful_s: float | None = 0.0,
        locks: dict[str, str] | None = None,
    ) -> None:
        super().__init__(call_s)
        self.uuid = uuid
        self.capacity = capacity or Resources(cpus=8, memory_mib=16_384)
        self.boot_s = boot_s
        """How long a start takes more, seconds."""
        self.graceful_s = graceful_s
        """How long a guest takes to follow a shutdown request; None: it ignores it."""
        self.specs: dict[str, DomainSpec] = {}
        self.secret: CephSecret | None = None
        self.disk_opens: Callable[[DomainSpec], Awaitable[None]] = opens
        """Awaited by a start before the guest runs; raises what the storage says."""
        self._domains: dict[str, Domain] = {}
        self._lost: dict[str, Domain] = {}
        """Guests that run on although the daemon takes them for off."""
        self._locks = {} if locks is None else locks
        self._consoles: dict[str, MemoryConsole] = {}
        self._streams: weakref.WeakValueDictionary[int, EventQueue] = weakref.WeakValueDictionary()
        self._opened = 0
        self._changed: dict[str, Live] = {}
        """What somebody made of a domain by hand."""
        self._taken = ""
        """Node whose agent works here; empty: none."""

    # --- what a test or the simulator does to the host

    def guest_powers_off(self, uuid: str) -> None:
        self._ended(uuid, EndReason.SHUTDOWN)

    def crash(self, uuid: str) -> None:
        """QEMU dies."""
        self._ended(uuid, EndReason.CRASHED)

    def io_error(self, uuid: str) -> None:
        """The storage refuses a write: the guest stops."""
        if uuid in self._lost:
            self._lost[uuid] = msgspec.structs.replace(self._lost[uuid], state=DomainState.IO_ERROR)
            return
        self._set(uuid, state=DomainState.IO_ERROR)
        self._post(uuid, "io_error")

    def client_dies(self) -> None:
        super().client_dies()
        self._taken = ""
        self._streams.clear()

    def power_cut(self) -> None:
        """Guests and definitions are gone, without an event."""
        for uuid in list(self._domains):
            self._unlock(uuid)
        self._domains.clear()
        self._lost.clear()
        for uuid in list(self.hung):
            self.thaws(uuid)
        self.specs.clear()
        self.daemon_dies()

    def left_by(self, node: str) -> None:
        """The process of that node's agent is gone: what it held is free."""
        if self._taken == node:
            self._taken = ""

    def damage(self, uuid: str) -> None:
        """Somebody edits the metadata of a domain, and nobody can read it any more."""
        self._domains[uuid] = msgspec.structs.replace(
            self._must(uuid), project="", session=0, epoch=0, run=0, volume_uuid="", managed=False, damaged=True
        )

    def remove(self, uuid: str) -> None:
        """Somebody shuts its guest down and undefines it by hand."""
        if self._domains[uuid].state in _ACTIVE:
            self.guest_powers_off(uuid)
        self._forget(uuid)

    def lose(self, uuid: str, *, whole: bool = False) -> None:
        """The daemon loses its note of a running guest: it takes the domain for one never started.

        ``whole``: and its definition, so that it knows nothing of it.
        """
        self._lost[uuid] = self._must(uuid)
        self._domains[uuid] = msgspec.structs.replace(self._domains[uuid], state=DomainState.DEFINED)
        if whole:
            del self._domains[uuid]

    def lost_ends(self, uuid: str) -> None:
        """Somebody ends such a QEMU."""
        self._lost.pop(uuid, None)

    def destroy(self, uuid: str) -> None:
        """Somebody pulls a guest's plug by hand; it stays defined."""
        self._ended(uuid, EndReason.DESTROYED)

    def save(self, uuid: str) -> None:
        """Somebody saves a guest's memory by hand, which ends it."""
        self._ended(uuid, EndReason.SAVED)

    def undefine(self, uuid: str) -> None:
        """Somebody undefines a domain that runs."""
        self._domains[uuid] = msgspec.structs.replace(self._must(uuid), transient=True)
        self._post(uuid, "undefined")

    def change(self, uuid: str, **more: object) -> None:
        """Somebody changes a domain: ``disk="/var/lib/overlay"``."""
        self._changed[uuid] = msgspec.structs.replace(self._live(uuid), **more)

    def add_foreign(self, uuid: str, name: str) -> None:
        """A domain that somebody else defined."""
        self._domains[uuid] = Domain(uuid=uuid, project="", name=name, state=DomainState.RUNNING, managed=False)

    def known(self) -> list[Domain]:
        """Everything that is defined, seen from outside."""
        return list(self._domains.values())

    def active(self) -> list[Domain]:
        """Guests that run or could write, seen from outside."""
        known = [domain for domain in self._domains.values() if domain.state in _ACTIVE]
        return [*known, *self._lost.values()]

    # --- the port

    async def open(self) -> None:
        if not self._daemon:
            raise Unavailable("open: the daemon is down")

    async def acquire_host(self, node: str) -> None:
        if self._taken and self._taken != node:
            raise InUse(f"another agent works on this libvirt: that of node {self._taken}")
        self._taken = node

    async def release_host(self) -> None:
        self._taken = ""

    async def close(self) -> None:
        self._taken = ""
        for stream in list(self._streams.values()):
            stream.close()

    async def facts(self) -> HostFacts:
        return HostFacts(
            uuid=self.uuid,
            capacity=self.capacity,
            hypervisor="qemu",
            hypervisor_why="in memory",
            versions={"memory": "1"},
        )

    async def teach_secret(self, secret: CephSecret) -> None:
        def teach() -> None:
            self.secret = secret

        await self._call("teach_secret", "", teach)

    async def domains(self) -> list[Domain]:
        return await self._call("domains", "", lambda: list(self._domains.values()), changes=False)

    async def domain(self, uuid: str) -> Domain | None:
        return await self._call("domain", uuid, lambda: self._domains.get(uuid), changes=False)

    async def live(self, uuid: str) -> Live:
        return await self._call("live", uuid, lambda: self._live(uuid), changes=False)

    def _live(self, uuid: str) -> Live:
        self._must(uuid)
        spec = self.specs[uuid]
        made = Live(
            disk=spec.disk.path,
            nics=tuple((nic.mac, nic.bridge) for nic in spec.nics),
            cpus=spec.cpus,
            memory_mib=spec.memory_mib,
        )
        return self._changed.get(uuid, made)

    def events(self) -> AsyncIterator[DomainEvent]:
        stream = EventQueue()
        self._opened += 1
        self._streams[self._opened] = stream
        return stream

    async def boot(self, spec: DomainSpec, paused: bool = False) -> None:
        def define() -> None:
            if spec.uuid in self._domains:
                raise Exists(f"boot {spec.project}/{spec.name}: a domain of this UUID is still defined")
            self._domains[spec.uuid] = defined(spec)
            self.specs[spec.uuid] = spec
            self._post(spec.uuid, "defined")

        found: list[DomainSpec] = []

        def start() -> None:
            if self.specs.get(spec.uuid) is not found[0]:
                raise Refused(f"boot {spec.project}/{spec.name}: undefined while it was starting")
            holder = self._locks.setdefault(spec.disk.path, self.uuid)
            if holder != self.uuid or self._disk_in_use_here(spec):
                self._forget(spec.uuid)
                raise InUse(f'boot {spec.project}/{spec.name}: Failed to get "write" lock')
            self._set(spec.uuid, state=DomainState.PAUSED if paused else DomainState.RUNNING)
            self._post(spec.uuid, "started")

        def refuse(failure: Exception) -> None:
            if self.specs.get(spec.uuid) is found[0]:
                self._forget(spec.uuid)
            raise failure

        def boot() -> None:
            failure = self.fail("start", spec.uuid)
            if failure is not None:
                refuse(failure)
            start()

        async def opened() -> None:
            # As in libvirt: a start that waited in the daemon starts whatever is defined by that UUID then.
            if spec.uuid not in self.specs or self._domains[spec.uuid].state is not DomainState.DEFINED:
                raise Refused(f"boot {spec.project}/{spec.name}: no longer defined, or already running")
            found.append(self.specs[spec.uuid])
            try:
                await self.disk_opens(found[0])
            except (Refused, Unavailable) as error:
                refuse(error)

        await self._call("boot", spec.uuid, define, then=(self.boot_s, boot, opened))

    async def shutdown(self, uuid: str) -> None:
        def request() -> None:
            domain = self._domains.get(uuid)
            if domain is None or domain.state is not DomainState.RUNNING or self.graceful_s is None:
                return
            asyncio.get_running_loop().call_later(
                self.graceful_s, self._guest_follows, uuid, self.specs.get(uuid)
            )

        await self._call("shutdown", uuid, request)

    def _guest_follows(self, uuid: str, asked: DomainSpec | None) -> None:
        domain = self._domains.get(uuid)
        same = self.specs.get(uuid) is asked
        if same and domain is not None and domain.state is DomainState.RUNNING:
            self.guest_powers_off(uuid)

    async def kill(self, uuid: str) -> None:
        def kill() -> None:
            if uuid in self._lost:
                self.lost_ends(uuid)
            if uuid not in self._domains:
                return
            if self._domains[uuid].state in _ACTIVE:
                self._ended(uuid, EndReason.DESTROYED)
            self._forget(uuid)

        await self._call("kill", uuid, kill)

    async def pause(self, uuid: str) -> None:
        await self._call("pause", uuid, lambda: self._switch(uuid, DomainState.PAUSED, "suspended"))

    async def resume(self, uuid: str) -> None:
        await self._call("resume", uuid, lambda: self._switch(uuid, DomainState.RUNNING, "resumed"))

    async def retag(self, uuid: str, session: int, epoch: int, node: str = "") -> None:
        def retag() -> None:
            domain = self._must(uuid)
            if not domain.managed:
                raise Refused(f"retag {uuid}: no such domain of ours")
            whose = domain.node or node
            self._domains[uuid] = msgspec.structs.replace(
                domain, session=session, epoch=epoch, node=whose, transient=False
            )

        await self._call("retag", uuid, retag)

    async def note_clients(self, uuid: str, clients: tuple[str, ...]) -> None:
        def note() -> None:
            if not self._must(uuid).managed:
                raise Refused(f"note clients {uuid}: no such domain of ours")
            self._domains[uuid] = msgspec.structs.replace(self._domains[uuid], clients=clients)

        await self._call("note_clients", uuid, note)

    async def emulators(self) -> dict[str, int]:
        # Of the kernel, not of the daemon: it may be down.
        await asyncio.sleep(self.call_s)
        return {domain.uuid: 1000 + number for number, domain in enumerate(self.active()) if domain.managed}

    async def console(self, uuid: str) -> ConsoleStream:
        def attach() -> MemoryConsole:
            if self._must(uuid).state not in _ACTIVE:
                raise Refused(f"console {uuid}: not running")
            former = self._consoles.get(uuid)
            if former is not None:
                former.end()
            self._consoles[uuid] = MemoryConsole()
            return self._consoles[uuid]

        return await self._call("console", uuid, attach)

    # --- inside

    def _must(self, uuid: str) -> Domain:
        domain = self._domains.get(uuid)
        if domain is None:
            raise NotFound(f"no domain {uuid}")
        return domain

    def _set(self, uuid: str, *, state: DomainState, end: EndReason = EndReason.NONE) -> None:
        self._domains[uuid] = msgspec.structs.replace(self._must(uuid), state=state, end=end)

    def _switch(self, uuid: str, state: DomainState, what: str) -> None:
        domain = self._must(uuid)
        if domain.state not in _ACTIVE:
            raise Refused(f"{what} {uuid}: not running")
        if domain.state is not state:
            self._set(uuid, state=state)
            self._post(uuid, what)

    def _ended(self, uuid: str, end: EndReason) -> None:
        self._set(uuid, state=DomainState.DEFINED, end=end)
        self._unlock(uuid)
        self._post(uuid, "crashed" if end is EndReason.CRASHED else "stopped")

    def _unlock(self, uuid: str) -> None:
        console = self._consoles.pop(uuid, None)
        if console is not None:
            console.end()
        spec = self.specs.get(uuid)
        if spec is not None and self._locks.get(spec.disk.path) == self.uuid:
            del self._locks[spec.disk.path]

    def _disk_in_use_here(self, spec: DomainSpec) -> bool:
        return any(
            domain.uuid != spec.uuid
            and domain.uuid in self.specs
            and self.specs[domain.uuid].disk.path == spec.disk.path
            for domain in self.active()
        )

    def _forget(self, uuid: str) -> None:
        if self._domains.pop(uuid, None) is not None:
            self._post(uuid, "undefined")
        self.specs.pop(uuid, None)
        self._changed.pop(uuid, None)

    def _post(self, uuid: str, what: str) -> None:
        for stream in list(self._streams.values()):
            stream.post(DomainEvent(uuid=uuid, what=what))
