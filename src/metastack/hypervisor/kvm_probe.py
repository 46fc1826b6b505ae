"""The KVM probe: proves by running a guest that KVM works here.

Owns: the proof and its cache.
Why: /dev/kvm may open, KVM_CREATE_VM may work and libvirt may advertise kvm, and still the firmware of a real
guest hangs or dies. So the probe starts QEMU with its usual firmware and a boot sector that does what a boot
loader does: it goes from real to 32-bit protected mode and returns from interrupts there. Then it writes one
byte to the isa-debug-exit device, which ends QEMU with a known exit status. The CPU is the host's, as that of
our guests is. Seen: a nested KVM that ran firmware and a plain boot sector, and killed every boot loader at its
first ``iret``; one that refused the host's CPU for ``arch-capabilities`` alone. So the CPU is tried with and
without that, and guests get the one that was proven.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import structlog

log = structlog.get_logger()

_DEADLINE_S: Final = 5.0
_BYTE: Final = 0x2A
_PROVEN: Final = (_BYTE << 1) | 1
"""What isa-debug-exit makes of the byte."""

_REAL_MODE: Final = (
    "fa",  # cli
    "31c0 8ed8 8ec0 8ed0",  # xor ax,ax; ds, es, ss = 0
    "bc007c",  # sp = 0x7c00
    "660f01166c7c",  # lgdt [0x7c6c]
    "660f011e727c",  # lidt [0x7c72]
    "0f20c0 0c01 0f22c0",  # cr0 |= protected mode
    "ea257c2000",  # jmp 0x20:0x7c25
)
_PROTECTED_MODE: Final = (
    "66b82800 8ed8 8ec0 8ed0",  # ds, es, ss = 0x28
    "31c0 8ee0 8ee8",  # fs, gs = 0
    "0f00d0 b008 0f00d8",  # no local descriptors; the task register is 0x08
    "bc00700000",  # esp = 0x7000
    "c70508320000 697c2000",  # interrupt 0x40 goes to 0x20:0x7c69 ...
    "c7050c320000 008e0000",  # ... through an interrupt gate
    "b9e8030000",  # ecx = 1000
    "cd40 e2fc",  # int 0x40; loop
    "b02a 66baf400 ee",  # out 0xf4, 0x2a
    "f4 ebfd",  # hlt, for ever
    "cf",  # 0x7c69: iret
    "6690",
)
_TABLES: Final = (
    "2f00 787c0000",  # 0x7c6c: descriptors at 0x7c78
    "ff07 08300000",  # 0x7c72: interrupt gates at 0x3008
    "0000000000000000",  # 0x00
    "6700800500890000",  # 0x08: a free 32-bit task state at 0x580
    "0000000000000000",  # 0x10
    "0000000000000000",  # 0x18
    "ffff0000009bcf00",  # 0x20: flat 32-bit code
    "ffff00000093cf00",  # 0x28: flat data
)
_BOOT_SECTOR: Final = (
    bytes.fromhex("".join((*_REAL_MODE, *_PROTECTED_MODE, *_TABLES))).ljust(510, b"\0") + b"\x55\xaa"
)
_CPUS: Final = {True: "host", False: "host,-arch-capabilities"}
_DEAD: Final = b"KVM internal error"
"""What QEMU says of a guest that KVM cannot run any further; it then waits for ever."""
_VERSION: Final = "2"
"""Of the proof: an answer that an older one gave is asked for again."""


class Accel(msgspec.Struct, frozen=True):
    """What guests run on, and how we know."""

    kind: str
    why: str
    arch_capabilities: bool = True
    """False: KVM ran the proof only with a CPU without them; guests get none."""


class _Cached(msgspec.Struct):
    boot_id: str
    qemu: str
    kind: str
    why: str
    arch_capabilities: bool = True


async def probe(emulator: str, cache: str = "", device: str = "/dev/kvm") -> Accel:
    """``kvm`` if it ran a guest, else ``qemu``. Never raises for what it finds; a few seconds at most."""
    boot_id = _read("/proc/sys/kernel/random/boot_id")
    version = _identity(emulator)
    if cache and (known := _load(cache)) and (known.boot_id, known.qemu) == (boot_id, version):
        return Accel(known.kind, known.why, known.arch_capabilities)
    accel = await _probe(emulator, device)
    if cache:
        _save(cache, _Cached(boot_id, version, accel.kind, accel.why, accel.arch_capabilities))
    log.info("kvm_probed", accel=accel.kind, why=accel.why)
    return accel


async def _probe(emulator: str, device: str) -> Accel:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Accel("qemu", f"{device}: {error.strerror}")
    why = []
    with tempfile.TemporaryDirectory(prefix="ms-kvm-") as folder:
        sector, bios_log = Path(folder, "sector"), Path(folder, "firmware")
        _write(sector)
        for with_them, cpu in _CPUS.items():
            seen = await _run_guest(_command(emulator, sector, bios_log, cpu))
            if seen == "":
                return Accel("kvm", f"a probe guest ran under KVM (-cpu {cpu})", with_them)
            last = _read(str(bios_log)).strip().splitlines()[-1:]
            where = f"; its firmware's last words: {last[0].strip()[:80]!r}" if last else ""
            why.append(f"with -cpu {cpu} it {seen}{where}")
    return Accel("qemu", f"{device} opens, but a probe guest does not run under KVM: {'; '.join(why)}")


def _command(emulator: str, sector: Path, bios_log: Path, cpu: str, accel: str = "kvm") -> tuple[str, ...]:
    return (
        *(emulator, "-accel", accel, "-cpu", cpu, "-machine", "pc", "-m", "32"),
        *("-nodefaults", "-no-user-config"),
        *("-display", "none", "-no-reboot"),
        *("-drive", f"file={sector},format=raw,if=none,id=disk,snapshot=on", "-device", "ide-hd,drive=disk"),
        *("-device", "isa-debug-exit,iobase=0xf4,iosize=4"),
        *("-chardev", f"file,path={bios_log},id=words", "-device", "isa-debugcon,iobase=0x402,chardev=words"),
    )


async def _run_guest(command: tuple[str, ...]) -> str:
    """Empty when the boot sector ran, else what was seen."""
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        return f"did not start: {command[0]}: {error.strerror}"
    assert process.stderr is not None
    stderr = b""
    try:
        async with asyncio.timeout(_DEADLINE_S):
            while _DEAD not in stderr and (piece := await process.stderr.read(4096)):
                stderr += piece
            if _DEAD not in stderr:
                await process.wait()
    except TimeoutError:
        return f"hung for {_DEADLINE_S:.0f} s"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode == _PROVEN:
        return ""
    if _DEAD in stderr:
        return f"died of a {_DEAD.decode()}"
    said = " ".join(stderr.decode(errors="replace").split())[-200:]
    return f"ended with status {process.returncode}: {said}"


def _write(sector: Path) -> None:
    sector.write_bytes(_BOOT_SECTOR)


def _identity(emulator: str) -> str:
    """Changes with the installed QEMU; cheaper than running it for its version."""
    try:
        found = os.stat(emulator)
    except OSError:
        return emulator
    return f"{emulator} {found.st_size} {found.st_mtime_ns} proof {_VERSION}"


def _read(path: str) -> str:
    try:
        return Path(path).read_text(errors="replace").strip()
    except OSError:
        return ""


def _load(cache: str) -> _Cached | None:
    try:
        return msgspec.json.decode(Path(cache).read_bytes(), type=_Cached)
    except (OSError, msgspec.MsgspecError):
        return None


def _save(cache: str, found: _Cached) -> None:
    path = Path(cache)
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_name(path.name + ".new")
        fresh.write_bytes(msgspec.json.encode(found))
        fresh.replace(path)
