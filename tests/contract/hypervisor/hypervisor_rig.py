"""What a contract test does to a host from outside, whichever kind of host it is."""

from __future__ import annotations

import asyncio
import os
import signal
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import libvirt
from libvirt_host import LibvirtHost, read_until, spec

from metastack.hypervisor.libvirt.hypervisor import LibvirtHypervisor
from metastack.hypervisor.twin.hypervisor import MemoryHypervisor
from metastack.ports import CannotStart, Domain, DomainEvent, DomainSpec, Hypervisor


class Rig(Protocol):
    hypervisor: Hypervisor

    def spec(self) -> DomainSpec:
        """A VM with a new disk."""
        ...

    def beside(self) -> Hypervisor:
        """Another agent's, of the same libvirt."""
        ...

    async def guest_powers_off(self, uuid: str) -> None: ...

    async def qemu_dies(self, uuid: str) -> None: ...

    async def guest_is_up(self, uuid: str) -> None: ...

    def refuses_bridges(self) -> None:
        """A host without the bridge that a guest is to have; a real one needs nothing for that."""
        ...

    async def by_hand(self, uuid: str, what: str) -> None:
        """``destroy``, ``save``, ``undefine`` or ``snapshot`` (disk only), as with virsh."""
        ...

    def qemu_stops(self, uuid: str) -> None:
        """SIGSTOP."""
        ...

    def qemu_goes_on(self, uuid: str) -> None: ...


class MemoryRig:
    def __init__(self, hypervisor: MemoryHypervisor) -> None:
        self.hypervisor = hypervisor
        self._memory = hypervisor

    def spec(self) -> DomainSpec:
        return spec(Path("/disks", str(uuid.uuid4())))

    def beside(self) -> Hypervisor:
        return self.hypervisor

    async def guest_powers_off(self, uuid: str) -> None:
        self._memory.guest_powers_off(uuid)

    async def qemu_dies(self, uuid: str) -> None:
        self._memory.crash(uuid)

    async def guest_is_up(self, uuid: str) -> None:
        assert (await self.hypervisor.domain(uuid)) is not None

    def refuses_bridges(self) -> None:
        self._memory.fail = lambda what, _uuid: CannotStart("no such bridge") if what == "start" else None

    async def by_hand(self, uuid: str, what: str) -> None:
        if what == "snapshot":
            self._memory.change(uuid, disk="/overlay")
        else:
            getattr(self._memory, what)(uuid)

    def qemu_stops(self, uuid: str) -> None:
        self._memory.hangs(uuid)

    def qemu_goes_on(self, uuid: str) -> None:
        self._memory.thaws(uuid)


class LibvirtRig:
    def __init__(self, hypervisor: Hypervisor, host: LibvirtHost) -> None:
        self.hypervisor = hypervisor
        self._host = host

    def spec(self) -> DomainSpec:
        return spec(self._host.disk(str(uuid.uuid4())))

    def beside(self) -> Hypervisor:
        return LibvirtHypervisor(self._host.uri, force="qemu", vnc_dir="")

    def qemu_stops(self, uuid: str) -> None:
        os.kill(self._host.qemu_pid(uuid), signal.SIGSTOP)

    def qemu_goes_on(self, uuid: str) -> None:
        os.kill(self._host.qemu_pid(uuid), signal.SIGCONT)

    async def guest_powers_off(self, uuid: str) -> None:
        console = await self.hypervisor.console(uuid)
        await console.write(b"q")
        # What a guest has not fetched is lost when the console closes: wait for its end.
        async with asyncio.timeout(30):
            while await console.read():
                pass
        await console.close()

    def refuses_bridges(self) -> None:
        """It does by itself."""

    async def qemu_dies(self, uuid: str) -> None:
        os.kill(self._host.qemu_pid(uuid), signal.SIGKILL)

    async def guest_is_up(self, uuid: str) -> None:
        """It echoes: the boot sector is running, so the power button is armed."""
        console = await self.hypervisor.console(uuid)
        await console.write(b"!")
        await read_until(console, b"!")
        await console.close()

    async def by_hand(self, uuid: str, what: str) -> None:
        virt = libvirt.open(self._host.uri)
        try:
            handle = virt.lookupByUUIDString(uuid)
            match what:
                case "destroy":
                    handle.destroy()
                case "save":
                    handle.managedSave(0)
                case "undefine":
                    handle.undefineFlags(0)
                case "snapshot":
                    overlay = self._host.folder / f"{uuid}.overlay"
                    text = (
                        "<domainsnapshot><name>by-hand</name><disks><disk name='vda' snapshot='external'>"
                        f"<source file='{overlay}'/></disk></disks></domainsnapshot>"
                    )
                    only = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
                    handle.snapshotCreateXML(text, only | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA)
        finally:
            virt.close()


class Watcher:
    """Collects events in the background, so that a test can wait for one."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self.seen: list[DomainEvent] = []
        self._events = hypervisor.events()
        self._task = asyncio.create_task(self._collect())

    async def _collect(self) -> None:
        async for event in self._events:
            self.seen.append(event)

    async def wait(self, uuid: str, *what: str, deadline_s: float = 30) -> None:
        wanted = {DomainEvent(uuid=uuid, what=one) for one in what}
        await eventually(lambda: wanted <= set(self.seen), deadline_s, lambda: self.seen)

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)


async def eventually(true: Callable[[], object], deadline_s: float, seen: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(deadline_s):
            while not true():  # noqa: ASYNC110 (another process changes it: nothing to wait on)
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s} s; seen: {seen()}") from None


async def look_until(
    hypervisor: Hypervisor, uuid: str, true: Callable[[Domain], bool], deadline_s: float = 30
) -> Domain:
    """Look at a domain until it is as wanted."""
    domain: Domain | None = None
    try:
        async with asyncio.timeout(deadline_s):
            while True:
                domain = await hypervisor.domain(uuid)
                if domain is not None and true(domain):
                    return domain
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"not within {deadline_s} s; seen: {domain}") from None
