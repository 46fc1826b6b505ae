"""QEMU processes of this host, by the kernel's word: also those that libvirtd does not know.

Owns: reading /proc for them, and ending one whose domain is to be gone. Refuses: any process that was not
started for a domain's UUID. Rule: a process is ended through a pidfd, after its command line was read once
more: a number that was given to another process meanwhile is left alone.

Seen: a libvirtd that had lost the status file of a running guest took it for one that never started, and a
second QEMU was booted beside it.
"""

from __future__ import annotations

import asyncio
import os
import re
import select
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog

from metastack.ports import Unavailable

log = structlog.get_logger()

T = TypeVar("T")

_UUID: Final = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_READ_BYTES: Final = 64 * 1024
_END_S: Final = 5.0


class Emulators:
    """The QEMUs of one host. To read of a process may hang as it does: hence threads and deadlines."""

    def __init__(self, timeout_s: float, proc: str = "/proc") -> None:
        self._timeout_s, self._proc = timeout_s, proc
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="emulators")

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    async def all(self) -> dict[str, int]:
        """UUID to process id; of several with one UUID the oldest."""
        return await self._run("looking for QEMU processes", self._look)

    async def end(self, uuid: str) -> None:
        """SIGKILL every QEMU of that UUID and see it gone; absent is fine. Raises Unavailable."""
        await self._run(f"ending the QEMU of {uuid}", lambda: self._end(uuid))

    async def _run(self, what: str, call: Callable[[], T]) -> T:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._threads, call)
        except TimeoutError:
            raise Unavailable(f"{what}: /proc does not answer within {self._timeout_s:g} s") from None

    def _look(self) -> dict[str, int]:
        found: dict[str, int] = {}
        for pid in sorted(int(name) for name in os.listdir(self._proc) if name.isdigit()):
            uuid = self._uuid_of(pid)
            if uuid:
                found.setdefault(uuid, pid)
        return found

    def _uuid_of(self, pid: int) -> str:
        """The domain's UUID on a QEMU's command line; empty: it is no QEMU, or has ended."""
        try:
            with open(f"{self._proc}/{pid}/cmdline", "rb") as file:
                words = file.read(_READ_BYTES).split(b"\0")
        except OSError:
            return ""
        if b"-uuid" not in words or b"-name" not in words:
            return ""
        uuid = words[words.index(b"-uuid") + 1]
        return uuid.decode() if _UUID.fullmatch(uuid) else ""

    def _end(self, uuid: str) -> None:
        while (pid := self._look().get(uuid, 0)) != 0:
            try:
                handle = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                if self._uuid_of(pid) != uuid:
                    continue
                log.warning("qemu_ended", uuid=uuid, pid=pid, why="libvirtd did not end it")
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                if not select.select([handle], [], [], _END_S)[0]:
                    raise Unavailable(f"kill {uuid}: its QEMU (process {pid}) does not end")
            except ProcessLookupError:
                continue
            finally:
                os.close(handle)
