"""From libvirt's callbacks to the loop: one thread for the process, and bounded streams of events.

Owns: the thread that runs libvirt's event loop, and the hand-over from it.
Refuses: work in a callback: it notes that something happened and returns.
Rule: a stream never grows beyond its bound; when it would, everything in it collapses into one "reconnected",
which means: look at everything. Equal events that nobody has fetched yet are one event.
"""

from __future__ import annotations

import asyncio
import threading
from typing import Final

import libvirt
import structlog

from metastack.ports import DomainEvent

log = structlog.get_logger()

RECONNECTED: Final = DomainEvent(uuid="", what="reconnected")

_LIFECYCLE: Final[dict[int, str]] = {
    libvirt.VIR_DOMAIN_EVENT_DEFINED: "defined",
    libvirt.VIR_DOMAIN_EVENT_UNDEFINED: "undefined",
    libvirt.VIR_DOMAIN_EVENT_STARTED: "started",
    libvirt.VIR_DOMAIN_EVENT_SUSPENDED: "suspended",
    libvirt.VIR_DOMAIN_EVENT_RESUMED: "resumed",
    libvirt.VIR_DOMAIN_EVENT_STOPPED: "stopped",
    libvirt.VIR_DOMAIN_EVENT_SHUTDOWN: "shutdown",
    libvirt.VIR_DOMAIN_EVENT_PMSUSPENDED: "suspended",
    libvirt.VIR_DOMAIN_EVENT_CRASHED: "crashed",
}


def lifecycle(event: int, detail: int) -> str:
    """libvirt's lifecycle event in our words."""
    if event == libvirt.VIR_DOMAIN_EVENT_STOPPED and detail in (
        libvirt.VIR_DOMAIN_EVENT_STOPPED_CRASHED,
        libvirt.VIR_DOMAIN_EVENT_STOPPED_FAILED,
    ):
        return "crashed"
    if event == libvirt.VIR_DOMAIN_EVENT_SUSPENDED and detail == libvirt.VIR_DOMAIN_EVENT_SUSPENDED_IOERROR:
        return "io_error"
    return _LIFECYCLE.get(event, "changed")


class EventStream:
    """One reader's events. ``post`` is called from any thread, the rest from the loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, bound: int = 4096) -> None:
        self._loop = loop
        self._bound = bound
        self._lock = threading.Lock()
        self._pending: dict[DomainEvent, None] = {}
        self._wake_is_due = False
        self._arrived = asyncio.Event()
        self._closed = False

    def post(self, event: DomainEvent) -> None:
        """Add an event; at most one wake-up is on its way to the loop at any time."""
        with self._lock:
            if event not in self._pending and len(self._pending) >= self._bound:
                self._pending.clear()
                event = RECONNECTED
            # A repeated event moves to the end, so that an order "stopped, started" is never turned round.
            self._pending.pop(event, None)
            self._pending[event] = None
            if self._wake_is_due or self._closed:
                return
            self._wake_is_due = True
        try:
            self._loop.call_soon_threadsafe(self._wake)
        except RuntimeError:  # the loop is closed: nobody will read
            self._closed = True

    def _wake(self) -> None:
        with self._lock:
            self._wake_is_due = False
        self._arrived.set()

    def close(self) -> None:
        """End the stream; a reader that waits gets StopAsyncIteration."""
        self._closed = True
        self._arrived.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> DomainEvent:
        while not self._closed:
            with self._lock:
                if self._pending:
                    event = next(iter(self._pending))
                    del self._pending[event]
                    return event
                self._arrived.clear()
            await self._arrived.wait()
        raise StopAsyncIteration


class _EventThread:
    """The process's one thread in ``virEventRunDefaultImpl``.

    libvirt cannot unregister its event implementation, so the thread lives as long as the process (daemon).
    It must be running before the first connection is opened.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def ensure(self) -> None:
        with self._lock:
            if self._thread is not None:
                return
            libvirt.registerErrorHandler(_silent, None)
            libvirt.virEventRegisterDefaultImpl()
            self._thread = threading.Thread(target=self._run, name="libvirt-events", daemon=True)
            self._thread.start()

    @staticmethod
    def _run() -> None:
        # A timer keeps the loop turning: without any handle, poll() would sleep before the first is added.
        libvirt.virEventAddTimeout(60_000, lambda _timer, _opaque: None, None)
        while True:
            try:
                libvirt.virEventRunDefaultImpl()
            except libvirt.libvirtError as error:
                log.error("libvirt_event_loop_failed", error=str(error))


def _silent(_context: object, _error: object) -> None:
    """libvirt prints errors to stderr by default; ours come as exceptions."""


EVENT_THREAD: Final = _EventThread()
