"""Whether this host shuts down, as its service manager says: what tells a reboot from a restart of the agent.

Owns: asking, once, when the agent is told to stop. Refuses: acting on the answer.
Rule: systemd says ``stopping`` from the moment its ``shutdown.target`` is queued, so before any unit is told to
stop: reboot, poweroff, halt and kexec all queue it, and no restart of a unit does. ``systemctl`` speaks to it
over its own socket, so an answer needs no D-Bus. No answer counts as a restart: guests are left alone then.
"""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Final

import structlog

log = structlog.get_logger()

ANSWER_S: Final = 5.0
STOPPING: Final = "stopping"


def _default() -> tuple[str, ...]:
    if not Path("/run/systemd/system").is_dir() or shutil.which("systemctl") is None:
        return ()
    return ("systemctl", "is-system-running")


async def host_stops(command: tuple[str, ...]) -> bool:
    """This host shuts down. ``command`` prints its state, as ``systemctl is-system-running`` does."""
    command = command or _default()
    if not command:
        return False
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError as error:
        log.warning("host_state_unknown", error=f"{command[0]}: {error.strerror}")
        return False
    try:
        async with asyncio.timeout(ANSWER_S):
            said, _ = await process.communicate()
    except TimeoutError:
        process.kill()
        await process.wait()
        log.warning("host_state_unknown", error=f"{command[0]} did not answer within {ANSWER_S:g} s")
        return False
    return said.decode(errors="replace").strip() == STOPPING
