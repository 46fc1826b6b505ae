"""The Hypervisor port on libvirt and QEMU.

Owns: domains, their events, the libvirt secret of the Ceph key, the proof of KVM.
Refuses: domains without our metadata: it lists them as unmanaged and the agent leaves them alone.
Rule: every blocking call goes through :class:`Connection`, so that ``quiesce`` covers it.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Final
from xml.etree import ElementTree as ET

import libvirt
import msgspec
import structlog

from metastack.core.domains import Live
from metastack.core.model import Resources
from metastack.ports import (
    CannotStart,
    CephSecret,
    ConsoleStream,
    Domain,
    DomainEvent,
    DomainSpec,
    DomainState,
    EndReason,
    Exists,
    HostFacts,
    NodeFault,
    ObjectFault,
    Refused,
    Unavailable,
    local_io,
)

from ..emulators import Emulators
from ..host_lock import HostLock
from ..kvm_probe import Accel, probe
from . import domain_xml as xml
from . import live_xml as live
from .connection import Connection
from .console import Console
from .events import RECONNECTED, EventStream, lifecycle
from .restart_barrier import barrier_trouble, forget_phantoms, run, systemd_restart
from .state import state_and_end

log = structlog.get_logger()

_UNDEFINE: Final = (
    libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE
    | libvirt.VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA
    | libvirt.VIR_DOMAIN_UNDEFINE_NVRAM
)


class LibvirtHypervisor:
    """One libvirtd. ``force`` is ``kvm``, ``qemu`` or empty (prove it)."""

    def __init__(
        self,
        uri: str,
        *,
        force: str = "",
        barrier_command: tuple[str, ...] = (),
        vnc_dir: str,
        call_timeout_s: float = 30,
        probe_cache: str = "",
    ) -> None:
        if force not in ("", "kvm", "qemu"):
            raise ValueError(f"force {force!r} is not kvm, qemu or empty")
        self._force = force
        self._barrier_command = barrier_command
        self._vnc_dir = vnc_dir
        self._probe_cache = probe_cache
        self._call_timeout_s = call_timeout_s
        self._host_lock = HostLock(uri)
        self._connection = Connection(
            uri,
            call_timeout_s=call_timeout_s,
            on_connect=self._register,
            on_reconnected=lambda: self._post(RECONNECTED),
        )
        self._streams: weakref.WeakSet[EventStream] = weakref.WeakSet()
        self._secret: CephSecret | None = None
        self._accel: Accel | None = None
        self._facts: HostFacts | None = None
        self._ends: dict[str, EndReason] = {}
        self._transient: dict[str, Domain] = {}
        """Domains that were seen to run without being defined."""
        self._vanished: dict[str, Domain] = {}
        """Those of them that switched themselves off, until they are cleared away."""
        self._emulators = Emulators(call_timeout_s)

    # --- life

    async def open(self) -> None:
        if self._vnc_dir:
            with local_io(f"making {self._vnc_dir}"):
                _make_folder(self._vnc_dir)
        await self._connection.open()
        try:
            with local_io("proving KVM"):
                self._accel = await self._prove_accel()
        except BaseException:
            await self._connection.close()
            raise
        log.info("hypervisor_opened", uri=self._connection.uri, accel=self._accel.kind, why=self._accel.why)

    async def close(self) -> None:
        await self._connection.close()
        self._emulators.close()
        self._host_lock.release_host()
        for stream in list(self._streams):
            stream.close()

    async def acquire_host(self, node: str) -> None:
        self._host_lock.acquire_host(node)

    async def release_host(self) -> None:
        self._host_lock.release_host()

    async def quiesce(self, uuid: str = "") -> None:
        await self._connection.quiesce(uuid)

    async def quiesce_starts(self) -> None:
        await self._connection.quiesce(starts=True)

    async def interrupt(self, starts: bool = False) -> None:
        self._connection.interrupt(starts)

    async def astray(self) -> bool:
        return self._connection.astray

    async def barrier(self) -> None:
        """Restart libvirtd; running guests survive, queued calls of dead clients do not.

        A daemon that starts has forgotten why the domains ended that are off: that is written into their
        metadata first, so that a guest that switched itself off stays off.
        """
        command = self._barrier_command or systemd_restart()
        try:
            for domain in await self.domains():
                if domain.managed and domain.end is not EndReason.NONE:
                    await self._write_metadata(domain)
        except Unavailable as error:  # a daemon that is down or hangs is one more reason to restart it
            log.warning("exit_reasons_not_saved", why=str(error))
        await self._restart(command)
        if forget_phantoms(self._connection.uri):
            await self._restart(command)
        # Safety: calls of our own that were under way died with the daemon; none of their threads is left.
        try:
            async with asyncio.timeout(self._call_timeout_s):
                await self.quiesce()
        except TimeoutError:
            raise Unavailable("barrier: libvirtd was restarted, and calls of before have not ended") from None
        self._connection.astray = False

    async def _restart(self, command: tuple[str, ...]) -> None:
        generation = self._connection.generation
        await run(command, self._call_timeout_s)
        try:
            await self._connection.wait_reconnected(generation, self._call_timeout_s / 2)
        except Unavailable:
            # Seen once: the new daemon died at its start. Restarting is idempotent, and there is no other way.
            log.warning("barrier_repeated", command=command)
            await run(command, self._call_timeout_s)
            await self._connection.wait_reconnected(generation, self._call_timeout_s / 2)

    def _register(self, virt: libvirt.virConnect) -> None:
        """With every new connection, in a thread: callbacks, and the secret that a daemon's death lost."""
        virt.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._on_lifecycle, None)
        virt.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_REBOOT, self._on_reboot, None)
        virt.domainEventRegisterAny(None, libvirt.VIR_DOMAIN_EVENT_ID_IO_ERROR_REASON, self._on_io_error, None)
        if self._secret is not None:
            _define_secret(virt, self._secret)

    def _ensure_secret(self, virt: libvirt.virConnect) -> None:
        """Teach the secret again when the daemon has none: it lives in its memory, and a daemon may restart
        unseen between two of our connections."""
        if self._secret is None:
            return
        try:
            virt.secretLookupByUUIDString(self._secret.uuid)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_SECRET:
                raise
            _define_secret(virt, self._secret)

    # --- facts

    async def facts(self) -> HostFacts:
        if self._facts is None:
            assert self._accel is not None, "open() first"
            accel = self._accel

            def look(virt: libvirt.virConnect) -> HostFacts:
                info = virt.getInfo()
                host = ET.fromstring(virt.getCapabilities()).findtext("host/uuid") or ""
                return HostFacts(
                    uuid=host,
                    capacity=Resources(cpus=info[2], memory_mib=_memory_mib()),
                    hypervisor=accel.kind,
                    hypervisor_why=accel.why,
                    warnings=() if self._barrier_command else barrier_trouble(),
                    versions={"libvirt": _version(virt.getLibVersion()), "qemu": _version(virt.getVersion())},
                )

            self._facts = await self._connection.call("facts", look)
        return self._facts

    async def _prove_accel(self) -> Accel:
        def look(virt: libvirt.virConnect) -> tuple[str, str]:
            driver = virt.getType()
            if driver != "QEMU":
                return driver, ""
            caps = ET.fromstring(virt.getDomainCapabilities(None, "x86_64", None, None, 0))
            return driver, caps.findtext("path") or "qemu-system-x86_64"

        driver, emulator = await self._connection.call("capabilities", look)
        if driver == "TEST":
            return Accel("test", "libvirt's test driver runs nothing")
        if self._force:
            return Accel(self._force, "forced by the operator")
        return await probe(emulator, self._probe_cache)

    async def teach_secret(self, secret: CephSecret) -> None:
        self._secret = secret
        await self._connection.call("teach secret", lambda virt: _define_secret(virt, secret), changes=True)

    # --- looking

    async def domains(self) -> list[Domain]:
        def look(virt: libvirt.virConnect) -> list[Domain]:
            found = (self._look(handle) for handle in virt.listAllDomains())
            return [domain for domain in found if domain is not None]

        return await self._connection.call("list domains", look)

    async def domain(self, uuid: str) -> Domain | None:
        def look(virt: libvirt.virConnect) -> Domain | None:
            handle = _find(virt, uuid)
            return self._vanished.get(uuid) if handle is None else self._look(handle)

        return await self._connection.call("look at domain", look)

    async def live(self, uuid: str) -> Live:
        def look(virt: libvirt.virConnect) -> str:
            return str(virt.lookupByUUIDString(uuid).XMLDesc(0))

        return live.parse(await self._connection.call("look at what a domain is made of", look))

    def _look(self, handle: libvirt.virDomain) -> Domain | None:
        """None when the domain went away while we looked."""
        try:
            uuid = handle.UUIDString()
            text = _metadata(handle)
            state, end = state_and_end(*handle.state())
            domain = xml.parse_metadata(uuid, handle.name(), text, state)
            if domain.managed:
                domain = _by_hand(handle, domain)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise
        if state is not DomainState.DEFINED:
            self._ends.pop(uuid, None)
            if domain.transient:
                self._transient[uuid] = domain
            return domain
        if domain.end is EndReason.SAVED:
            return domain
        if end is not EndReason.NONE:
            self._ends[uuid] = end
        elif domain.end is EndReason.NONE:
            end = self._ends.get(uuid, EndReason.NONE)
        else:
            end = domain.end
        return msgspec.structs.replace(domain, end=end)

    # --- events

    def events(self) -> AsyncIterator[DomainEvent]:
        stream = EventStream(asyncio.get_running_loop())
        self._streams.add(stream)
        return stream

    def _post(self, event: DomainEvent) -> None:
        for stream in list(self._streams):
            stream.post(event)

    def _on_lifecycle(
        self, _virt: libvirt.virConnect, handle: libvirt.virDomain, event: int, detail: int, _opaque: object
    ) -> None:
        uuid = handle.UUIDString()
        off = event == libvirt.VIR_DOMAIN_EVENT_STOPPED and detail == libvirt.VIR_DOMAIN_EVENT_STOPPED_SHUTDOWN
        was = self._transient.pop(uuid, None) if event == libvirt.VIR_DOMAIN_EVENT_STOPPED else None
        if was is not None and off:
            # libvirt forgets a domain that was undefined with its end: that it switched itself off must not be.
            self._vanished[uuid] = msgspec.structs.replace(
                was, state=DomainState.DEFINED, end=EndReason.SHUTDOWN, transient=False
            )
        self._post(DomainEvent(uuid=uuid, what=lifecycle(event, detail)))

    def _on_reboot(self, _virt: libvirt.virConnect, handle: libvirt.virDomain, _opaque: object) -> None:
        self._post(DomainEvent(uuid=handle.UUIDString(), what="rebooted"))

    def _on_io_error(self, _virt: libvirt.virConnect, handle: libvirt.virDomain, *_details: object) -> None:
        self._post(DomainEvent(uuid=handle.UUIDString(), what="io_error"))

    # --- acting

    async def boot(self, spec: DomainSpec, paused: bool = False) -> None:
        assert self._accel is not None, "open() first"
        accel = self._accel
        text = xml.build(
            spec, accel=accel.kind, vnc_dir=self._vnc_dir, arch_capabilities=accel.arch_capabilities
        )
        flags = libvirt.VIR_DOMAIN_START_PAUSED if paused else 0

        def start(virt: libvirt.virConnect) -> None:
            if _find(virt, spec.uuid) is not None:
                raise Exists(f"boot {spec.project}/{spec.name}: a domain of this UUID is still defined")
            self._ensure_secret(virt)
            self._vanished.pop(spec.uuid, None)
            handle = virt.defineXMLFlags(text, libvirt.VIR_DOMAIN_DEFINE_VALIDATE)
            self._ends.pop(spec.uuid, None)
            try:
                handle.createWithFlags(flags)
            except libvirt.libvirtError:
                # Only when the daemon still talks: a lost one may have started it, and then it must be found.
                with suppress(libvirt.libvirtError):
                    if not handle.isActive():
                        handle.undefineFlags(_UNDEFINE)
                raise

        try:
            await self._change(f"boot {spec.project}/{spec.name}", start, spec.uuid, boots=True)
        except Refused as error:
            if isinstance(error, NodeFault | ObjectFault):
                raise
            raise CannotStart(str(error)) from error

    async def shutdown(self, uuid: str) -> None:
        await self._ask(uuid, "shutdown", lambda handle: handle.shutdownFlags(0))

    async def pause(self, uuid: str) -> None:
        def pause(handle: libvirt.virDomain) -> None:
            if handle.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
                handle.suspend()

        await self._must(uuid, "pause", pause)

    async def resume(self, uuid: str) -> None:
        def resume(handle: libvirt.virDomain) -> None:
            if handle.state()[0] == libvirt.VIR_DOMAIN_PAUSED:
                handle.resume()

        await self._must(uuid, "resume", resume)

    async def kill(self, uuid: str) -> None:
        assert self._accel is not None, "open() first"
        flags = 0 if self._accel.kind == "test" else _UNDEFINE  # the test driver knows none of them

        def kill(virt: libvirt.virConnect) -> None:
            self._vanished.pop(uuid, None)
            handle = _find(virt, uuid)
            if handle is None:
                return
            with _ignoring(libvirt.VIR_ERR_NO_DOMAIN):
                with _ignoring(libvirt.VIR_ERR_OPERATION_INVALID):  # it is not running
                    handle.destroyFlags(0)
                # Safety: undefining a running domain would leave it running, only invisible next time.
                if handle.isActive():
                    raise Unavailable(f"kill {uuid}: still running after destroy")
                handle.undefineFlags(flags)
            if _find(virt, uuid) is not None:
                raise Unavailable(f"kill {uuid}: still defined after undefine")
            self._ends.pop(uuid, None)

        await self._change(f"kill {uuid}", kill, uuid, ends=True)
        await self._emulators.end(uuid)

    async def retag(self, uuid: str, session: int, epoch: int, node: str = "") -> None:
        domain = await self.domain(uuid)
        if domain is None or not domain.managed:
            raise Refused(f"retag {uuid}: no such domain of ours")
        whose = domain.node or node
        await self._write_metadata(msgspec.structs.replace(domain, session=session, epoch=epoch, node=whose))

    async def note_clients(self, uuid: str, clients: tuple[str, ...]) -> None:
        domain = await self.domain(uuid)
        if domain is None or not domain.managed:
            raise Refused(f"note clients {uuid}: no such domain of ours")
        await self._write_metadata(msgspec.structs.replace(domain, clients=clients))

    async def emulators(self) -> dict[str, int]:
        return await self._emulators.all()

    async def _write_metadata(self, domain: Domain) -> None:
        def write(handle: libvirt.virDomain) -> None:
            text = xml.metadata_xml(domain, _metadata(handle))
            flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG
            if handle.isActive():
                flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
            if not handle.isPersistent():
                # Somebody undefined it while it runs. Defined again it is what it was, and its end is seen.
                shown = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE
                handle.connect().defineXML(handle.XMLDesc(shown))
                self._transient.pop(domain.uuid, None)
            handle.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT, text, xml.NAMESPACE_KEY, xml.NAMESPACE, flags
            )

        await self._must(domain.uuid, "retag", write)

    async def console(self, uuid: str) -> ConsoleStream:
        console = Console(self._connection, asyncio.get_running_loop())
        # On the main connection, which its stream belongs to from then on.
        await self._change(f"console {uuid}", lambda virt: console.attach(virt.lookupByUUIDString(uuid)))
        return console

    async def _ask(self, uuid: str, what: str, function: Callable[[libvirt.virDomain], object]) -> None:
        """Something that is void when the domain is gone or not running."""

        def run(virt: libvirt.virConnect) -> None:
            handle = _find(virt, uuid)
            if handle is not None:
                with _ignoring(libvirt.VIR_ERR_NO_DOMAIN), _ignoring(libvirt.VIR_ERR_OPERATION_INVALID):
                    function(handle)

        await self._change(f"{what} {uuid}", run, uuid)

    async def _must(self, uuid: str, what: str, function: Callable[[libvirt.virDomain], object]) -> None:
        """Something that needs the domain; raises NotFound or Refused."""
        await self._change(f"{what} {uuid}", lambda virt: function(virt.lookupByUUIDString(uuid)), uuid)

    async def _change(
        self,
        what: str,
        function: Callable[[libvirt.virConnect], object],
        uuid: str = "",
        *,
        boots: bool = False,
        ends: bool = False,
    ) -> None:
        await self._connection.call(what, function, changes=True, uuid=uuid, boots=boots, ends=ends)


# ---------------------------------------------------------------------------------------------------------


def _make_folder(path: str) -> None:
    Path(path).mkdir(mode=0o711, parents=True, exist_ok=True)


class _ignoring:
    """Suppress libvirt errors of one code."""

    def __init__(self, code: int) -> None:
        self._code = code

    def __enter__(self) -> None:
        return None

    def __exit__(self, _kind: object, error: object, _trace: object) -> bool:
        return isinstance(error, libvirt.libvirtError) and error.get_error_code() == self._code


def _find(virt: libvirt.virConnect, uuid: str) -> libvirt.virDomain | None:
    try:
        return virt.lookupByUUIDString(uuid)
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            return None
        raise


def _by_hand(handle: libvirt.virDomain, domain: Domain) -> Domain:
    """What somebody did to it with virsh, as far as that bears on its next start."""
    if domain.state is not DomainState.DEFINED:
        return domain if handle.isPersistent() else msgspec.structs.replace(domain, transient=True)
    # The daemon forgets why a domain is off when it restarts; the saved image stays.
    with _ignoring(libvirt.VIR_ERR_NO_SUPPORT):
        if handle.hasManagedSaveImage(0):
            return msgspec.structs.replace(domain, end=EndReason.SAVED)
    return domain


def _metadata(handle: libvirt.virDomain) -> str | None:
    try:
        text: str = handle.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, xml.NAMESPACE, 0)
        return text
    except libvirt.libvirtError as error:
        if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN_METADATA:
            return None
        raise


def _define_secret(virt: libvirt.virConnect, secret: CephSecret) -> None:
    handle = virt.secretDefineXML(xml.secret_xml(secret.uuid, secret.name))
    handle.setValue(secret.key)


def _memory_mib() -> int:
    """Of this machine. libvirt's own figure is NUMA node 0's, which is short where memory was hot-plugged."""
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
