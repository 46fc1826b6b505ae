"""The host's watchdog device as a last resort: it resets a fenced host that cannot end its guests.

Owns: the device file, and the decision to arm it. Off unless ``watchdog_device`` is set.
Refuses: arming for anything but what the storage itself says. Losing etcd, a lost session, a dead, hung or
stopped agent arm nothing.
Rule: armed late, and only over guests that are shut out already.

# Safety: the guard must never reset a host whose guests could still do their work. It arms only after it read
from the storage that this node's own address is blocked *and* saw guests of ours here. Such guests cannot write
any more, others run in their place or will, and this agent is about to kill them anyway: a reset takes no work
away. Above all, an etcd outage of any length arms nothing: without etcd no node can write a fence's *done*. A
block without a fence shuts the guests out just the same.
Armed early and petted while all is well, as cluster managers do it, an agent that crashed during an etcd outage
would take healthy guests down with its host. The price of arming late: an agent that hangs before it saw
the block arms nothing. Then the storage alone keeps the disks safe, as on every host without a watchdog.
What it is for: a fenced guest that does not write is not paused, and goes on answering on the network under an
address that its successor has too. A libvirtd that hangs, or a QEMU that cannot die, would leave it so.
"""

from __future__ import annotations

import asyncio
import os
from typing import Final

import structlog

from ...ports import Refused, Unavailable
from ..context import AgentContext

log = structlog.get_logger()

LOOK_EVERY_S: Final = 5.0
ANSWER_S: Final = 10.0
PATIENCE_S: Final = 60.0
"""How long the ordinary way (kill and undefine) has before petting ends; then the device's own timeout runs."""


class WatchdogDevice:
    """``/dev/watchdog``: opening it starts its timer, any byte restarts it, ``V`` and closing it stops it."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._handle: int | None = None

    @property
    def armed(self) -> bool:
        return self._handle is not None

    def arm(self) -> None:
        """Raises OSError when the device cannot be opened."""
        if self._handle is None:
            self._handle = os.open(self.path, os.O_WRONLY | os.O_CLOEXEC)
        self.pet()

    def pet(self) -> None:
        if self._handle is not None:
            os.write(self._handle, b"\0")

    def disarm(self) -> None:
        """A driver built with "nowayout" ignores this and resets the host all the same."""
        if self._handle is not None:
            handle, self._handle = self._handle, None
            try:
                os.write(handle, b"V")
            finally:
                os.close(handle)


class Watchdog:
    """Looks every few seconds whether guests live here that the storage shut out."""

    def __init__(self, node: AgentContext, device: WatchdogDevice) -> None:
        self._node, self._device = node, device
        self._guests = False
        """Guests of ours were here when the hypervisor last answered."""
        self._since_s = 0.0
        self._failed = ""

    async def run(self) -> None:
        """For as long as the agent lives; a graceful stop disarms."""
        try:
            while True:
                await asyncio.sleep(LOOK_EVERY_S)
                self._act(await self._shut_out(), asyncio.get_running_loop().time())
        finally:
            self._device.disarm()

    def _act(self, shut_out: bool | None, now_s: float) -> None:
        device, node = self._device, self._node
        try:
            if not device.armed:
                if shut_out:
                    device.arm()
                    self._since_s, self._failed = now_s, ""
                    log.error("watchdog_armed", node=node.name, device=device.path, patience_s=PATIENCE_S)
            elif shut_out is False:
                device.disarm()
                log.warning("watchdog_disarmed", node=node.name)
            elif now_s - self._since_s < PATIENCE_S:
                device.pet()
            else:
                log.error("watchdog_expiring", node=node.name, why="fenced guests could not be killed")
        except OSError as error:
            if self._failed != str(error):
                self._failed = str(error)
                log.error("watchdog_unusable", node=node.name, device=device.path, error=str(error))

    async def _shut_out(self) -> bool | None:
        """Fenced guests are here, are not, or nobody can tell (None: nothing changes)."""
        node = self._node
        try:
            async with asyncio.timeout(ANSWER_S):
                domains = await node.hypervisor.domains()
            self._guests = any(domain.managed or domain.damaged for domain in domains)
        except (Unavailable, Refused, TimeoutError):
            pass  # as it was: a libvirtd that hangs over fenced guests is what this is for
        if not self._guests:
            return False
        try:
            async with asyncio.timeout(ANSWER_S):
                return bool(await node.session.shut_out())
        except (Unavailable, Refused, TimeoutError):
            return None
