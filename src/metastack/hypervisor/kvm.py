"""Does KVM really run a guest here? Proven by running one, not by asking.

Owns: the proof and its cache.
Why: /dev/kvm may open, KVM_CREATE_VM may work and libvirt may advertise kvm, and still the firmware of a real
guest hangs or dies. So the probe starts QEMU with its usual firmware and a boot sector of five instructions
that writes one byte to the isa-debug-exit device, which ends QEMU with a known exit status. The CPU is the
host's, as our guests' is: a nested KVM was seen that ran a plain CPU (slowly) and died with this one.
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

# mov al,0x2a; mov dx,0xf4; out dx,al; hlt; jmp to the hlt
_BOOT_SECTOR: Final = bytes.fromhex("b02abaf400eef4ebfd").ljust(510, b"\0") + b"\x55\xaa"


class Accel(msgspec.Struct, frozen=True):
    """What guests run on, and how we know."""

    kind: str
    why: str


class _Cached(msgspec.Struct):
    boot_id: str
    qemu: str
    kind: str
    why: str


async def probe(emulator: str, cache: str = "", device: str = "/dev/kvm") -> Accel:
    """``kvm`` if it ran a guest, else ``qemu``. Never raises for what it finds; a few seconds at most."""
    boot_id = _read("/proc/sys/kernel/random/boot_id")
    version = _identity(emulator)
    if cache and (known := _load(cache)) and (known.boot_id, known.qemu) == (boot_id, version):
        return Accel(known.kind, known.why)
    accel = await _probe(emulator, device)
    if cache:
        _save(cache, _Cached(boot_id, version, accel.kind, accel.why))
    log.info("kvm_probed", accel=accel.kind, why=accel.why)
    return accel


async def _probe(emulator: str, device: str) -> Accel:
    try:
        os.close(os.open(device, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return Accel("qemu", f"{device}: {error.strerror}")
    with tempfile.TemporaryDirectory(prefix="ms-kvm-") as folder:
        sector, bios_log = Path(folder, "sector"), Path(folder, "firmware")
        _write(sector)
        seen = await _run_guest(_command(emulator, sector, bios_log))
        last = _read(str(bios_log)).strip().splitlines()[-1:]
    if seen == "":
        return Accel("kvm", "a probe guest ran under KVM")
    where = f"; its firmware's last words: {last[0].strip()[:80]!r}" if last else ""
    return Accel("qemu", f"{device} opens, but a probe guest under KVM {seen}{where}")


def _command(emulator: str, sector: Path, bios_log: Path) -> tuple[str, ...]:
    return (
        *(emulator, "-accel", "kvm", "-cpu", "host", "-machine", "pc", "-m", "32"),
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
    try:
        async with asyncio.timeout(_DEADLINE_S):
            _, stderr = await process.communicate()
    except TimeoutError:
        return f"hung for {_DEADLINE_S:.0f} s"
    finally:
        if process.returncode is None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
    if process.returncode == _PROVEN:
        return ""
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
    return f"{emulator} {found.st_size} {found.st_mtime_ns}"


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
