"""What only a real libvirtd and a real QEMU can show: deaths, restarts, locks, the proof of KVM."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from functools import partial
from pathlib import Path

import msgspec
import pytest
from libvirt_host import TINY_GUEST, LibvirtHost, read_until, spec

from metastack.hypervisor import kvm_probe as kvm
from metastack.hypervisor.kvm_probe import probe
from metastack.hypervisor.libvirt.hypervisor import LibvirtHypervisor
from metastack.ports import CephSecret, DomainState, EndReason, NicSpec, Refused, Unavailable

sys.path.insert(0, str(Path(__file__).parents[2] / "contract" / "hypervisor"))
from hypervisor_rig import Watcher, look_until

pytestmark = pytest.mark.libvirt


def _new(host: LibvirtHost) -> Path:
    return host.disk(str(uuid.uuid4()))


async def _reconnected(watcher: Watcher) -> None:
    await watcher.wait("", "reconnected")


async def _look_for_ever(hypervisor: LibvirtHypervisor) -> None:
    async with asyncio.timeout(20):
        while True:
            await hypervisor.domains()


async def test_libvirtd_dies_and_returns(host: LibvirtHost, hypervisor: LibvirtHypervisor) -> None:
    running = spec(_new(host), "running")
    await hypervisor.teach_secret(CephSecret(uuid=str(uuid.uuid4()), name="ms-test", key=b"0123456789abcdef"))
    await hypervisor.boot(running)
    await hypervisor.retag(running.uuid, 101, 102)
    watcher = Watcher(hypervisor)
    host.kill_libvirtd()
    with pytest.raises(Unavailable):
        await _look_for_ever(hypervisor)
    host.start_libvirtd()
    await _reconnected(watcher)
    domain = await hypervisor.domain(running.uuid)
    assert domain is not None
    assert (domain.state, domain.session, domain.epoch) == (DomainState.RUNNING, 101, 102)
    secrets = host.inside("virsh", "secret-list").stdout
    assert "ceph ms-test" in secrets
    await hypervisor.pause(running.uuid)
    await watcher.wait(running.uuid, "suspended")
    await watcher.close()


@pytest.mark.parametrize(("how", "end"), [("off", EndReason.SHUTDOWN), ("killed", EndReason.CRASHED)])
async def test_a_guest_that_ends_while_libvirtd_is_down(
    host: LibvirtHost, hypervisor: LibvirtHypervisor, how: str, end: EndReason
) -> None:
    guest = spec(_new(host))
    await hypervisor.boot(guest)
    console = await hypervisor.console(guest.uuid)
    await console.write(b"!")
    await read_until(console, b"!")
    await console.close()
    watcher = Watcher(hypervisor)
    pid = host.qemu_pid(guest.uuid)
    terminal = host.inside("virsh", "ttyconsole", guest.uuid).stdout.strip()
    host.kill_libvirtd()
    if how == "off":
        # QEMU looks once a second whether somebody opened its pty: the echo says that it has.
        said = host.inside(
            "sh",
            "-c",
            f"exec 3<>{terminal}; stty raw -echo <&3; printf ! >&3; timeout 20 head -c1 <&3;"
            "printf q >&3; sleep 0.3",
        )
        assert said.stdout == "!", said
    else:
        os.kill(pid, signal.SIGKILL)
    host.start_libvirtd()
    await _reconnected(watcher)
    domain = await look_until(hypervisor, guest.uuid, lambda seen: seen.state is DomainState.DEFINED)
    assert domain.end is end
    await watcher.close()


async def test_an_end_survives_two_restarts_by_barrier(
    host: LibvirtHost, hypervisor: LibvirtHypervisor
) -> None:
    guest = spec(_new(host))
    await hypervisor.boot(guest)
    os.kill(host.qemu_pid(guest.uuid), signal.SIGKILL)
    await look_until(hypervisor, guest.uuid, lambda seen: seen.end is EndReason.CRASHED)
    await hypervisor.barrier()
    await hypervisor.barrier()
    fresh = LibvirtHypervisor(host.uri, force="qemu", vnc_dir=str(host.folder / "vnc"))
    await fresh.open()
    domain = await fresh.domain(guest.uuid)
    await fresh.close()
    assert domain is not None
    assert (domain.end, domain.epoch) == (EndReason.CRASHED, guest.epoch)


async def test_a_panic_is_a_crash_and_a_reset_is_not(host: LibvirtHost, hypervisor: LibvirtHypervisor) -> None:
    guest = spec(_new(host))
    watcher = Watcher(hypervisor)
    await hypervisor.boot(guest)
    console = await hypervisor.console(guest.uuid)
    await console.write(b"!")
    await read_until(console, b"!")
    await console.write(b"r")
    await watcher.wait(guest.uuid, "rebooted")
    await read_until(console, b"TINY GUEST UP")
    await console.write(b"p")
    domain = await look_until(hypervisor, guest.uuid, lambda seen: seen.state is DomainState.DEFINED)
    assert domain.end is EndReason.CRASHED
    await console.close()
    await watcher.close()


@pytest.mark.proof
async def test_a_refused_write_stops_the_guest_until_it_is_resumed(
    host: LibvirtHost, hypervisor: LibvirtHypervisor
) -> None:
    # The guest writes a sector of cylinder 1 instead of 0: outside the only page that this disk's host has.
    sector = TINY_GUEST.replace(b"\xb9\x02\x00", b"\xb9\x02\x01")
    assert sector != TINY_GUEST
    plain = host.disk("plain", sector)
    full = host.folder / "disks" / "full"
    full.mkdir()
    for command in (
        ("mount", "-t", "tmpfs", "-o", "size=4k", "tmpfs", str(full)),
        ("cp", "--sparse=always", str(plain), f"{full}/disk.raw"),
    ):
        done = host.inside(*command)
        assert done.returncode == 0, done.stderr
    guest = spec(full / "disk.raw")
    watcher = Watcher(hypervisor)
    await hypervisor.boot(guest)
    console = await hypervisor.console(guest.uuid)
    await console.write(b"!")
    await read_until(console, b"!")
    await console.write(b"w")
    await watcher.wait(guest.uuid, "io_error")
    await look_until(hypervisor, guest.uuid, lambda seen: seen.state is DomainState.IO_ERROR)
    grown = host.inside("mount", "-o", "remount,size=4m", str(full))
    assert grown.returncode == 0, grown.stderr
    await hypervisor.resume(guest.uuid)
    await read_until(console, b"W")
    await console.close()
    await hypervisor.kill(guest.uuid)
    assert host.inside("umount", str(full)).returncode == 0
    await watcher.close()


async def test_a_refused_start_leaves_nothing_defined(host: LibvirtHost, hypervisor: LibvirtHypervisor) -> None:
    guest = msgspec.structs.replace(
        spec(_new(host)), nics=(NicSpec(mac="52:54:00:00:00:09", bridge="missing0"),)
    )
    with pytest.raises(Refused, match="missing0"):
        await hypervisor.boot(guest)
    assert await hypervisor.domain(guest.uuid) is None


async def test_a_domain_of_somebody_else_is_unmanaged(host: LibvirtHost, hypervisor: LibvirtHypervisor) -> None:
    foreign = host.folder / "foreign.xml"
    foreign.write_text(
        "<domain type='qemu'><name>foreign</name><memory>8192</memory><os><type>hvm</type></os></domain>"
    )
    done = host.inside("virsh", "define", str(foreign))
    assert done.returncode == 0, done.stderr
    found = [domain for domain in await hypervisor.domains() if domain.name == "foreign"]
    assert [domain.managed for domain in found] == [False]
    with pytest.raises(Refused):
        await hypervisor.retag(found[0].uuid, 1, 1)


async def test_calls_never_hold_the_loop(host: LibvirtHost, hypervisor: LibvirtHypervisor) -> None:
    loop = asyncio.get_running_loop()
    worst = 0.0
    guest = spec(_new(host), nic=True)
    boot = asyncio.create_task(hypervisor.boot(guest))
    while not boot.done():
        before = loop.time()
        await asyncio.sleep(0.001)
        worst = max(worst, loop.time() - before)
    await boot
    print(f"longest turn of the loop while booting: {worst * 1000:.1f} ms")
    assert worst < 0.05
    assert (host.folder / "vnc" / f"{guest.uuid}.vnc").is_socket()


async def test_a_daemon_that_is_stopped_is_unavailable_and_quiesce_waits(host: LibvirtHost) -> None:
    hypervisor = LibvirtHypervisor(host.uri, force="qemu", vnc_dir=str(host.folder / "vnc"), call_timeout_s=0.5)
    await hypervisor.open()
    pid = str(host.libvirtd_pid())
    host.inside("kill", "-STOP", pid)
    try:
        with pytest.raises(Unavailable, match="no answer within"):
            await hypervisor.domains()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await hypervisor.quiesce()
    finally:
        host.inside("kill", "-CONT", pid)
    async with asyncio.timeout(20):
        await hypervisor.quiesce()
    assert isinstance(await hypervisor.domains(), list)
    await hypervisor.close()


async def test_kvm_is_proven_or_the_reason_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cache = str(tmp_path / "state" / "kvm.json")
    found = await probe("/usr/bin/qemu-system-x86_64", cache)
    print(found)
    assert found.kind in ("kvm", "qemu")
    assert found.why
    assert await probe("/usr/bin/qemu-system-x86_64", cache) == found
    # The probe guest itself is sound: without KVM it runs to its end.
    monkeypatch.setattr(kvm, "_CPUS", {True: "max"})
    monkeypatch.setattr(kvm, "_command", partial(kvm._command, accel="tcg"))
    emulated = await probe("/usr/bin/qemu-system-x86_64", device="/dev/null")
    assert emulated.why == "a probe guest ran under KVM (-cpu max)"
    missing = await probe("/usr/bin/qemu-system-x86_64", device="/dev/no-kvm")
    assert (missing.kind, missing.why) == ("qemu", "/dev/no-kvm: No such file or directory")


async def test_a_barrier_gets_past_a_daemon_that_hangs(host: LibvirtHost) -> None:
    hypervisor = LibvirtHypervisor(
        host.uri,
        force="qemu",
        barrier_command=host.barrier_command(),
        vnc_dir=str(host.folder / "vnc"),
        call_timeout_s=5,
    )
    await hypervisor.open()
    host.inside("kill", "-STOP", str(host.libvirtd_pid()))
    await hypervisor.barrier()
    assert isinstance(await hypervisor.domains(), list)
    await hypervisor.close()


async def test_a_death_unseen_by_a_new_libvirtd_is_a_crash(
    host: LibvirtHost, hypervisor: LibvirtHypervisor
) -> None:
    guest = spec(host.disk("unheard"), "unheard")
    watcher = Watcher(hypervisor)
    await hypervisor.boot(guest)
    await watcher.wait(guest.uuid, "started")  # the boot's own word may come after boot() has returned
    watcher.seen.clear()
    pid = host.qemu_pid(guest.uuid)
    os.kill(pid, signal.SIGSTOP)  # it does not answer the daemon that reconnects to it
    try:
        await hypervisor.barrier()
        await watcher.wait("", "reconnected")
        assert (await look_until(hypervisor, guest.uuid, lambda _: True)).state is DomainState.RUNNING
    finally:
        os.kill(pid, signal.SIGKILL)
    domain = await look_until(hypervisor, guest.uuid, lambda seen: seen.state is DomainState.DEFINED)
    assert domain.end is EndReason.CRASHED
    # What the agent's regular look at everything is for.
    assert [event for event in watcher.seen if event.uuid == guest.uuid] == []
    await watcher.close()
