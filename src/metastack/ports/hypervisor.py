"""The hypervisor port: libvirt as the agent uses it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

from msgspec import Struct

from ..core.domains import Domain, Live
from ..core.model import Resources
from .storage import CephSecret, DiskSource


class DomainEvent(Struct, frozen=True, kw_only=True):
    """Something happened to a domain: look at it."""

    uuid: str
    what: str
    """``started``, ``stopped``, ``crashed``, ``suspended``, ``resumed``, ``io_error``, ``defined``,
    ``undefined``, ``shutdown``, ``rebooted`` (from inside; same domain), ``changed`` (anything else)."""


class NicSpec(Struct, frozen=True, kw_only=True):
    mac: str
    bridge: str


class DomainSpec(Struct, frozen=True, kw_only=True):
    """Everything that goes into a domain's XML. Built from validated records only."""

    uuid: str
    project: str
    name: str
    cpus: int
    memory_mib: int
    disk: DiskSource
    nics: tuple[NicSpec, ...] = ()
    session: int = 0
    epoch: int = 0
    run: int = 0
    volume_uuid: str = ""
    claim_node: str = ""


class HostFacts(Struct, frozen=True, kw_only=True):
    """What the machine is."""

    uuid: str
    capacity: Resources
    hypervisor: str
    """``kvm`` or ``qemu``."""
    hypervisor_why: str
    versions: dict[str, str]
    warnings: tuple[str, ...] = ()
    """What is wrong with the machine, as far as running guests safely goes."""


class ConsoleStream(Protocol):
    """A serial console: bytes both ways."""

    async def read(self) -> bytes:
        """The next bytes; b"" at the end."""
        ...

    async def write(self, data: bytes) -> None: ...

    async def close(self) -> None: ...


class Hypervisor(Protocol):
    """libvirt as the agent uses it. Blocking calls run in threads of the adapter, counted."""

    async def open(self) -> None:
        """Connect, register event callbacks, probe KVM. Reconnects by itself from then on."""
        ...

    async def close(self) -> None: ...

    async def acquire_host(self, node: str) -> None:
        """Be the only agent of this libvirt for as long as this process lives; before any domain is looked at.

        Raises InUse, naming the other one. Taken by this process already: fine.
        """
        ...

    async def release_host(self) -> None:
        """Let another agent take this libvirt: this one touches nothing here."""
        ...

    async def quiesce(self, uuid: str = "") -> None:
        """Return when no libvirt call of ours is in flight; with ``uuid``, no order to that domain.

        Perhaps never: a QEMU that is stopped answers no order. A waiting task has a deadline.
        """
        ...

    async def quiesce_starts(self) -> None:
        """Return when no start of ours is in flight."""
        ...

    async def interrupt(self, starts: bool = False) -> None:
        """A task that waits for a call goes on at once as if its time were over: Unavailable, or
        UnknownOutcome.

        The calls go on, and are counted. ``starts``: also whoever waits for a start.
        """
        ...

    async def astray(self) -> bool:
        """Calls that change something were under way when a connection ended, and no barrier came since.

        :meth:`quiesce` cannot wait for them: nobody hears of their end. A daemon that hung may carry them out.
        """
        ...

    async def barrier(self) -> None:
        """Make sure that nothing queued in the daemon by a dead client can still land: restart it.

        Running guests survive, and nothing is astray any more. Raises Unavailable when it cannot be done.
        """
        ...

    async def facts(self) -> HostFacts: ...

    async def teach_secret(self, secret: CephSecret) -> None:
        """Define the libvirt secret (idempotent; also after a reconnect)."""
        ...

    async def domains(self) -> list[Domain]:
        """Every local domain, running or only defined."""
        ...

    async def domain(self, uuid: str) -> Domain | None: ...

    async def live(self, uuid: str) -> Live:
        """What a domain is made of right now, or was when it ended. Raises NotFound."""
        ...

    def events(self) -> AsyncIterator[DomainEvent]:
        """Domain events for ever; a ``DomainEvent(uuid="", what="reconnected")`` means: look at everything.

        And now and then without one: a guest that dies while a new daemon connects to it ends without an event.
        """
        ...

    async def boot(self, spec: DomainSpec, paused: bool = False) -> None:
        """Define, then start. A stale definition of the same UUID must be gone before.

        Raises Refused when libvirt rejects it (the message says why), Unavailable when it does not answer.
        """
        ...

    async def shutdown(self, uuid: str) -> None:
        """Ask the guest to power off (ACPI); returns at once. Absent or not running is fine."""
        ...

    async def kill(self, uuid: str) -> None:
        """Destroy *and undefine*; gone when it returns, also a QEMU that the daemon lost. Absent is fine."""
        ...

    async def pause(self, uuid: str) -> None: ...

    async def resume(self, uuid: str) -> None: ...

    async def retag(self, uuid: str, session: int, epoch: int, node: str = "") -> None:
        """Write session and epoch into the metadata of a domain, live and persistent (adopt).

        Everything else in there stays, also what this version does not know; ``node`` only where none is.
        One that somebody undefined while it runs is defined again: else its end would leave no trace.
        """
        ...

    async def note_clients(self, uuid: str, clients: tuple[str, ...]) -> None:
        """Write into its metadata which clients of the storage a domain's QEMU is."""
        ...

    async def emulators(self) -> dict[str, int]:
        """UUID to process id of every QEMU on this host, whether the daemon knows it or not."""
        ...

    async def console(self, uuid: str) -> ConsoleStream:
        """Open the serial console; takes it from whoever had it."""
        ...
