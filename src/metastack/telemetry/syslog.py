"""Events to a central syslog server: RFC 5424 over TCP with octet counting (RFC 6587).

Owns: one connection, the bounded queue before it, and the count of what did not fit.
Refuses: blocking its caller, growing without bound, spooling to disk, TLS (both come later).
Rule: :meth:`Syslog.offer` only appends or counts. Everything that can wait happens in :meth:`Syslog.run`.

Plain TCP syslog has no acknowledgement of its own. A batch is forgotten once the kernel has taken all of it;
one that was interrupted is sent again after the reconnect (it may arrive twice), and what a dying server had
in its socket buffers is lost. The end of the server's stream is watched, so that window is milliseconds.
"""

from __future__ import annotations

import asyncio
import os
import random
import socket
import threading
from collections import deque
from itertools import islice
from typing import Final

import structlog

from metastack.core.syslog_target import parse_syslog_target

QUEUE_LIMIT: Final = 10_000
"""Events kept while the server is away or slow; more are dropped and counted."""
CONNECT_TIMEOUT_S: Final = 5.0
WRITE_TIMEOUT_S: Final = 15.0
"""A server that takes nothing for this long is left, and tried again."""
BACKOFF_FIRST_S: Final = 0.2
BACKOFF_MAX_S: Final = 15.0
REPORT_EVERY_S: Final = 5.0
"""At most one ``syslog_dropped`` in this time while events go on being dropped."""
_BATCH: Final = 256
_FACILITY_DAEMON: Final = 3
_SEVERITY: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}

log = structlog.get_logger()


def header_field(text: str, limit: int) -> str:
    """A header field as RFC 5424 wants it: printable ASCII without spaces, bounded, ``-`` when empty."""
    return "".join(c if "!" <= c <= "~" else "_" for c in text[:limit]) or "-"


def frame(level: str, at: str, host: str, app: str, procid: str, event: str, payload: bytes) -> bytes:
    """One message with its length before it. No BOM: the JSON must be the first thing in MSG."""
    pri = _FACILITY_DAEMON * 8 + _SEVERITY.get(level, 6)
    head = (
        f"<{pri}>1 {header_field(at, 32)} {header_field(host, 255)} {header_field(app, 48)}"
        f" {header_field(procid, 128)} {header_field(event, 32)} - "
    )
    message = head.encode("ascii") + payload
    return b"%d " % len(message) + message


class _Leave(Exception):
    """The connection is to be left for a reason that is no failure: new target, or closing."""


class Syslog:
    """The sender: :meth:`offer` is what ``logs.forward_to`` wants, :meth:`run` is a task of its owner."""

    def __init__(
        self,
        host: str,
        app: str = "metastack-agent",
        *,
        target: str = "",
        queue_limit: int = QUEUE_LIMIT,
    ) -> None:
        self._host, self._app, self._procid = host, app, str(os.getpid())
        self._limit = queue_limit
        self._target = parse_syslog_target(target)
        self._queue: deque[bytes] = deque()
        self._lock = threading.Lock()
        self._dropped = 0
        self._reported_s = float("-inf")
        self._closing = False
        self._thread = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._wake = asyncio.Event()
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self.connected = False
        """True while there is a connection."""
        self.dropped_total = 0
        """Events that did not fit into the queue since the start."""

    @property
    def queued(self) -> int:
        """Events that wait; never more than the limit."""
        return len(self._queue)

    # --- the side of those who log: any thread, never waits

    def offer(self, level: str, event: str, at: str, payload: bytes) -> None:
        """Queue one event, or count it as dropped. Without a target it is neither: nobody asked for it."""
        if self._target is None or self._closing:
            return
        # Safety: the lock is held for an append only, by threads of the adapters and by the loop.
        with self._lock:
            if len(self._queue) >= self._limit:
                self._dropped += 1
                self.dropped_total += 1
                return
            self._queue.append(frame(level, at, self._host, self._app, self._procid, event, payload))
        self._notify(self._wake)

    def set_target(self, url: str) -> None:
        """Send to another server from now on, what is queued too; empty: to none. Raises ValueError."""
        target = parse_syslog_target(url)
        if target == self._target:
            return
        self._target = target
        self._notify(self._changed)

    async def close(self, drain_s: float = 2.0) -> None:
        """Take nothing more, send what is queued for at most ``drain_s``, then make :meth:`run` return.

        Also after :meth:`run` was cancelled: then it connects once more for what is left.
        """
        self._closing = True
        if self._loop is None:
            # run() was cancelled, or never ran: what is queued gets one more chance.
            if self._queue and self._target is not None:
                try:
                    async with asyncio.timeout(drain_s):
                        await self.run()
                except TimeoutError:
                    pass
            return
        self._wake.set()
        if self._queue and self._target is not None:
            try:
                async with asyncio.timeout(drain_s):
                    await self._ended.wait()
            except TimeoutError:
                pass
        self._queue.clear()
        self._changed.set()
        self._wake.set()
        await self._ended.wait()

    def _notify(self, event: asyncio.Event) -> None:
        if self._loop is None:
            return
        if threading.get_ident() == self._thread:
            event.set()
            return
        try:
            self._loop.call_soon_threadsafe(event.set)
        except RuntimeError:  # the loop is closed: the process is ending
            pass

    # --- the side of the loop

    async def run(self) -> None:
        """Connect, send, reconnect; until :meth:`close` or cancellation."""
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._ended.clear()
        failures = 0
        try:
            while not (self._closing and not self._queue):
                self._changed.clear()
                if self._target is None:
                    if self._closing:
                        return
                    await self._changed.wait()
                    continue
                failures = await self._visit(self._target, failures)
                if failures and not (self._closing and not self._queue):
                    await self._pause(failures)
        finally:
            self._loop = None
            self._ended.set()

    async def _visit(self, target: tuple[str, int], failures: int) -> int:
        """One connection, from connect to its end; how many visits in a row have failed now."""
        where = f"{target[0]}:{target[1]}"
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_connection(*target)
        except (OSError, TimeoutError) as error:
            if not failures:  # once for each outage, not once for each attempt
                log.warning("syslog_unreachable", target=where, error=str(error) or type(error).__name__)
            return failures + 1
        self.connected = True
        began_s = asyncio.get_running_loop().time()
        log.info("syslog_connected", target=where, queued=len(self._queue))
        try:
            _tune(writer)
            async with asyncio.TaskGroup() as group:
                group.create_task(_until_server_leaves(reader))
                group.create_task(self._until_changed())
                # The body must be what waits: in Python 3.11.2 a child that fails while the group is in its
                # __aexit__ leaves this task's cancel count at 1, and no later asyncio.timeout() would work.
                await self._pump(writer)
        except* _Leave:
            failures = 0
        except* (OSError, TimeoutError) as broken:
            first = broken.exceptions[0]
            # A server that accepts and hangs up at once is a failing one: the backoff goes on growing.
            lasted_s = asyncio.get_running_loop().time() - began_s
            failures = 1 if lasted_s > BACKOFF_MAX_S else failures + 1
            log.warning("syslog_lost", target=where, error=str(first) or type(first).__name__)
        finally:
            self.connected = False
            # abort() when bytes are left: close() would keep them, and the next visit sends them again.
            if writer.transport.get_write_buffer_size():
                writer.transport.abort()
            else:
                writer.close()
        return failures

    async def _until_changed(self) -> None:
        await self._changed.wait()
        raise _Leave

    async def _pump(self, writer: asyncio.StreamWriter) -> None:
        loop = asyncio.get_running_loop()
        while True:
            if self._changed.is_set():  # before the other task has noticed: nothing more to the old server
                raise _Leave
            batch = list(islice(self._queue, _BATCH))
            if batch:
                writer.write(b"".join(batch))
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await writer.drain()
                # Safety: nobody else removes from the left, but close(), after which nothing is appended.
                with self._lock:
                    for _ in range(min(len(batch), len(self._queue))):
                        self._queue.popleft()
                if self._dropped and loop.time() >= self._reported_s + REPORT_EVERY_S:
                    self._report(loop.time())
                continue
            if self._dropped:
                self._report(loop.time())
            elif self._closing:
                raise _Leave
            else:
                self._wake.clear()
                await self._wake.wait()

    def _report(self, now_s: float) -> None:
        """Log how many events were lost; the queue takes it now."""
        with self._lock:
            count, self._dropped = self._dropped, 0
        self._reported_s = now_s
        log.warning("syslog_dropped", count=count)

    async def _pause(self, failures: int) -> None:
        """Backoff with jitter; a new target or closing ends it."""
        ceiling_s = min(BACKOFF_MAX_S, BACKOFF_FIRST_S * 2 ** min(failures - 1, 10))
        try:
            async with asyncio.timeout(ceiling_s * random.uniform(0.5, 1.0)):
                await self._changed.wait()
        except TimeoutError:
            pass


async def _until_server_leaves(reader: asyncio.StreamReader) -> None:
    """A syslog server says nothing: the end of its stream means that it is gone."""
    while await reader.read(4096):
        pass
    raise ConnectionResetError("the server closed the connection")


def _tune(writer: asyncio.StreamWriter) -> None:
    """drain() waits until the kernel has everything; a silent peer is given up by the kernel too."""
    writer.transport.set_write_buffer_limits(high=0)
    sock = writer.get_extra_info("socket")
    if sock is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(WRITE_TIMEOUT_S * 1000))
