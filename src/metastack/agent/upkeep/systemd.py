"""sd_notify: ready, status and watchdog, over the datagram socket that the service manager names."""

from __future__ import annotations

import asyncio
import os
import socket


class Notifier:
    """Speaks to the service manager; silent when there is none."""

    def __init__(self) -> None:
        self._path = os.environ.get("NOTIFY_SOCKET", "")
        watchdog_us = os.environ.get("WATCHDOG_USEC", "")
        own = os.environ.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self.watchdog_s = int(watchdog_us) / 1e6 if watchdog_us.isdigit() and own else 0.0

    def say(self, text: str) -> None:
        """Send one notification; never fails, never blocks."""
        if not self._path:
            return
        address = "\0" + self._path[1:] if self._path.startswith("@") else self._path
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(text.encode(), address)
            except OSError:
                pass

    def extend(self, wait_s: float, why: str) -> None:
        """The stop takes that long at most; the unit's own timeout is for an agent that hangs."""
        self.say(f"STOPPING=1\nEXTEND_TIMEOUT_USEC={int(wait_s * 1e6)}\nSTATUS={why}")

    async def watchdog(self) -> None:
        """Pet the watchdog from the loop: a loop that hangs lets it bite."""
        while self.watchdog_s:
            self.say("WATCHDOG=1")
            await asyncio.sleep(self.watchdog_s / 3)
