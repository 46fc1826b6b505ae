"""The command that restarts libvirtd, so that nothing a dead client queued can still land.

Rule: it must leave running guests alone, which restarting the daemon does and stopping its scope would not.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import tempfile
from pathlib import Path
from typing import Final
from urllib.parse import parse_qs, urlsplit

import structlog

from metastack.ports import Unavailable, local_io

from .domain_xml import NAMESPACE

log = structlog.get_logger()

_NO_PROCESS: Final = re.compile(r"<domstatus [^>]*\bpid='0'")


def systemd_restart() -> tuple[str, ...]:
    """The command that restarts whichever daemon this host has."""
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        raise Unavailable("barrier: no systemd here and no barrier_command configured")
    modular = Path("/run/libvirt/virtqemud-sock").exists() and not Path("/run/libvirt/libvirt-sock").exists()
    return ("systemctl", "restart", "virtqemud.service" if modular else "libvirtd.service")


def barrier_trouble() -> tuple[str, ...]:
    """Why libvirtd could not be restarted, were it necessary."""
    try:
        systemd_restart()
    except Unavailable:
        return (
            "libvirtd cannot be restarted from here (no systemd, and libvirtd_restart_command is not set): "
            "after its agent died uncleanly this node does not become ready",
        )
    return ()


def forget_phantoms(uri: str) -> bool:
    """Drop what libvirtd noted of starts that it died in before there was a QEMU; true: restart it once more.

    A libvirtd that is killed between its first note of a start (``pid='0'``) and the fork leaves a domain that
    every later one takes for running: it waits for its monitor under a lock that no destroy gets, for ever
    (libvirt 9.0: seen in 4 of 300 kills during a start).

    Safety: only domains of ours, and only in the barrier, where no start of ours is under way. With the pid 0
    there is no QEMU, and a child that was just forked waits for a word of its dead parent and ends
    (tests/integration/safety).
    """
    socket = parse_qs(urlsplit(uri).query).get("socket", ["/run/libvirt/libvirt-sock"])[0]
    found = False
    for path in sorted((Path(socket).parent / "qemu").glob("*.xml")):
        try:
            text = path.read_text(errors="replace")
            if _NO_PROCESS.search(text) and NAMESPACE in text:
                path.unlink()
                found = True
                log.warning("phantom_domain_removed", status=str(path))
        except OSError as error:
            log.warning("phantom_domain_check_failed", status=str(path), error=str(error))
    return found


async def run(command: tuple[str, ...], timeout_s: float) -> None:
    """Run it to its end; raises Unavailable when it fails or takes too long.

    Its errors go to a file: a daemon that it starts would hold a pipe open, and its end would not be seen.
    """
    with tempfile.TemporaryFile() as said:
        with local_io(f"barrier: starting {command[0]}"):
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=said
            )
        try:
            async with asyncio.timeout(timeout_s):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):  # it ended just now
                process.kill()
            await process.wait()
            raise Unavailable(f"barrier: {command[0]} did not end within {timeout_s} s") from None
        if process.returncode:
            said.seek(0)
            text = said.read().decode(errors="replace").strip()[-500:]
            raise Unavailable(f"barrier: {' '.join(command)} exited {process.returncode}: {text}")
