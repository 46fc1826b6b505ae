"""Events to systemd's journal, by its native protocol: one datagram an event, and each field with its length.

Owns: the socket, the bounded backlog behind it, and the count of what did not fit.
Refuses: blocking its caller, which a stderr that journald reads would do while journald waits for a disk.
Rule: rsyslog takes for an event only what came by this protocol from a unit of ours. What a C library prints to
stderr arrives by another transport, so no text that a guest chose can pose as an event.
"""

from __future__ import annotations

import atexit
import errno
import os
import socket
import struct
import threading
import time
from collections import deque
from typing import Final, TextIO

import structlog

SOCKET: Final = "/run/systemd/journal/socket"
BACKLOG_LIMIT: Final = 10_000
"""Events kept while journald is away or slow; more are dropped and counted."""
SEND_TIMEOUT_S: Final = 1.0
"""Longest wait of the backlog's thread for journald, before it looks whether the process ends."""
DRAIN_S: Final = 2.0
"""Longest wait of an ending process for its backlog."""
_SEND_BUFFER: Final = 8 << 20
_PRIORITY: Final = {"critical": 2, "error": 3, "warning": 4, "info": 6, "debug": 7}
_AWAY: Final = (errno.ECONNREFUSED, errno.ENOENT, errno.ENOTCONN, errno.ECONNRESET)

log = structlog.get_logger()


def journal_reads(stream: TextIO) -> bool:
    """True if journald reads this stream: ``$JOURNAL_STREAM`` names its device and inode."""
    try:
        seen = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{seen.st_dev}:{seen.st_ino}"


def datagram(level: str, event: str, app: str, payload: bytes) -> bytes:
    """One entry. Every value has its length before it, so none ends early or becomes a field of its own."""
    fields = (
        (b"MESSAGE", payload),
        (b"PRIORITY", b"%d" % _PRIORITY.get(level, 6)),
        (b"SYSLOG_IDENTIFIER", app.encode("ascii", "replace")),
        (b"METASTACK_EVENT", event.encode("utf-8", "replace")),
    )
    return b"".join(name + b"\n" + struct.pack("<Q", len(value)) + value + b"\n" for name, value in fields)


class Journal:
    """The sender: :meth:`offer` may be called by any thread and never waits."""

    def __init__(self, app: str, path: str = "", limit: int = 0) -> None:
        self._app, self._path, self._limit = app, path or SOCKET, limit or BACKLOG_LIMIT
        self._now, self._waiting = _socket(0.0), _socket(SEND_TIMEOUT_S)
        self._lock = threading.Lock()
        self._backlog: deque[bytes] = deque()
        self._wake = threading.Event()
        self._thread: threading.Thread | None = None
        self._ending = False
        self._dropped = 0
        atexit.register(self.close)

    @property
    def queued(self) -> int:
        """Events that wait; never more than the limit."""
        return len(self._backlog)

    def offer(self, level: str, event: str, at: str, payload: bytes) -> None:
        """Send one event, or queue it, or count it as dropped."""
        entry = datagram(level, event, self._app, payload)
        # Safety: under the lock nothing waits; the thread sends outside it.
        with self._lock:
            if not self._backlog and self._sent(self._now, entry):
                return
            if self._ending or len(self._backlog) >= self._limit:
                self._dropped += 1
                return
            self._backlog.append(entry)
            if self._thread is None:
                self._thread = threading.Thread(target=self._drain, name="journal", daemon=True)
                self._thread.start()
        self._wake.set()

    def close(self) -> None:
        """Send the backlog for a moment; then no more waits."""
        atexit.unregister(self.close)
        self._ending = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join(DRAIN_S)
        if self._thread is None or not self._thread.is_alive():
            self._now.close()
            self._waiting.close()

    def _sent(self, by: socket.socket, entry: bytes) -> bool:
        """True if journald has it, or never will."""
        try:
            by.sendto(entry, self._path)
        except (BlockingIOError, TimeoutError, InterruptedError):
            return False
        except OSError as error:
            if error.errno in _AWAY or error.errno == errno.ENOBUFS:
                return False
            self._dropped += 1
        return True

    def _drain(self) -> None:
        """The backlog's thread: it takes an entry away once journald has it, so that nothing overtakes it."""
        while not self._ending or self._backlog:
            self._wake.wait()
            self._wake.clear()
            while self._backlog:
                if self._sent(self._waiting, self._backlog[0]):
                    with self._lock:
                        self._backlog.popleft()
                else:
                    # A socket that nobody reads refuses at once: that must not become a busy loop.
                    time.sleep(SEND_TIMEOUT_S / 10)
            with self._lock:
                dropped, self._dropped = self._dropped, 0
            if dropped:
                log.warning("journal_dropped", count=dropped)


def _socket(timeout_s: float) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
    made.settimeout(timeout_s)
    return made
