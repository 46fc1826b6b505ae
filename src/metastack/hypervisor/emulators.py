"""QEMU processes of this host, as the kernel sees them: also those that libvirtd does not know.

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
import threading
import time
from collections.abc import Callable
from typing import Final, TypeVar

import structlog

from metastack.ports import Unavailable
from metastack.ports.threads import Threads

log = structlog.get_logger()

T = TypeVar("T")

_UUID: Final = re.compile(rb"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_READ_BYTES: Final = 64 * 1024
_END_S: Final = 5.0


class Emulators:
    """The QEMUs of one host. To read of a process may hang as it does: hence threads and deadlines."""

    def __init__(self, timeout_s: float, proc: str = "/proc") -> None:
        self._timeout_s, self._proc = timeout_s, proc
        self._threads = Threads("emulators")
        self._lock = threading.Lock()
        self._reading: dict[int, tuple[float, threading.Event]] = {}
        """Since when a process is being read, and its end."""
        self._known: dict[int, tuple[str, str]] = {}
        """Start and UUID of the QEMUs that were read: for when one hangs."""
        self._said: set[int] = set()

    def close(self) -> None:
        self._threads.close()

    async def all(self) -> dict[str, int]:
        """UUID to process id; of several with one UUID the oldest."""
        return await self._run("looking for QEMU processes", self._look)

    async def end(self, uuid: str) -> None:
        """SIGKILL every QEMU of that UUID and see it gone; absent is fine. Raises Unavailable."""
        await self._run(f"ending the QEMU of {uuid}", lambda: self._end(uuid))

    async def _run(self, what: str, call: Callable[[], T]) -> T:
        try:
            future = self._threads.submit(call)
        except RuntimeError as error:
            raise Unavailable(f"{what}: not started: {error}") from None
        try:
            async with asyncio.timeout(self._timeout_s):
                return await asyncio.wrap_future(future)
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
        """The domain's UUID on a QEMU's command line; empty: it is no QEMU, or has ended.

        A process whose command line hangs costs one thread: whoever looks after the first one's time is over
        goes by what was read of it before.
        """
        with self._lock:
            under_way = self._reading.get(pid)
        if under_way is not None:
            begun_s, ended = under_way
            if not ended.wait(max(0.0, begun_s + self._timeout_s - time.monotonic())):
                return self._uuid_before(pid)
        ended = threading.Event()
        with self._lock:
            self._reading[pid] = (time.monotonic(), ended)
        try:
            found = self._read(pid)
        finally:
            with self._lock:
                self._reading.pop(pid, None)
            ended.set()
        if found:
            self._known[pid] = (self._start(pid), found)
        return found

    def _uuid_before(self, pid: int) -> str:
        start, uuid = self._known.get(pid, ("", ""))
        if pid not in self._said:
            self._said.add(pid)
            log.warning("process_unreadable", pid=pid, uuid=uuid, what="its command line cannot be read")
        return uuid if start and start == self._start(pid) else ""

    def _start(self, pid: int) -> str:
        """When the process started, in ticks since boot; empty: it has ended."""
        try:
            with open(f"{self._proc}/{pid}/stat") as file:
                fields = file.read().rpartition(")")[2].split()
        except OSError:
            return ""
        return fields[19] if len(fields) > 19 and fields[0] not in "ZX" else ""

    def _read(self, pid: int) -> str:
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
                log.warning("qemu_killed", uuid=uuid, pid=pid, why="libvirtd did not end it")
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                if not select.select([handle], [], [], _END_S)[0]:
                    raise Unavailable(f"kill {uuid}: its QEMU (process {pid}) does not end")
            except ProcessLookupError:
                continue
            finally:
                os.close(handle)
