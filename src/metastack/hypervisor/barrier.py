"""The command that restarts libvirtd, so that nothing a dead client queued can still land.

Rule: it must leave running guests alone, which restarting the daemon does and stopping its scope would not.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

from metastack.ports import Unavailable


def systemd_restart() -> tuple[str, ...]:
    """The command that restarts whichever daemon this host has."""
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        raise Unavailable("barrier: no systemd here and no barrier_command configured")
    modular = Path("/run/libvirt/virtqemud-sock").exists() and not Path("/run/libvirt/libvirt-sock").exists()
    return ("systemctl", "restart", "virtqemud.service" if modular else "libvirtd.service")


async def run(command: tuple[str, ...], timeout_s: float) -> None:
    """Run it to its end; raises Unavailable when it fails or takes too long."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(timeout_s):
            _, stderr = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        raise Unavailable(f"barrier: {command[0]} did not end within {timeout_s} s") from None
    if process.returncode:
        said = stderr.decode(errors="replace").strip()[-500:]
        raise Unavailable(f"barrier: {' '.join(command)} exited {process.returncode}: {said}")
