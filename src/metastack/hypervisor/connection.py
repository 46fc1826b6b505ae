"""The connection to libvirtd: calls in counted threads, and a way back when the daemon dies.

Owns: the ``virConnect``, the executor, the count of calls in flight, the reconnecting.
Refuses: knowing what a domain is.
Rule: a call is counted from before it is handed to a thread until that thread has returned, whatever became
of the await. ``quiesce`` waits for the count, never for the awaits. A call that a broken connection ended is
not over: a daemon that only hung has it still. That is noted until a barrier (``astray``).
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import libvirt
import structlog

from metastack.ports import Unavailable, UnknownOutcome

from .errors import connection_lost, translate
from .events import EVENT_THREAD

log = structlog.get_logger()

T = TypeVar("T")

_THREADS: Final = 8
_FIRST_WAIT_S: Final = 0.02
_LONGEST_WAIT_S: Final = 2.0
_KEEPALIVE_S: Final = 5
_KEEPALIVE_COUNT: Final = 3


class Connection:
    """One libvirt URI. ``on_connect`` runs in a thread with every new ``virConnect`` before it is used."""

    def __init__(
        self,
        uri: str,
        *,
        call_timeout_s: float,
        on_connect: Callable[[libvirt.virConnect], None],
        on_reconnected: Callable[[], None],
    ) -> None:
        self.uri = uri
        self._call_timeout_s = call_timeout_s
        self._on_connect = on_connect
        self._on_reconnected = on_reconnected
        self._loop: asyncio.AbstractEventLoop | None = None
        self._executor: ThreadPoolExecutor | None = None
        self._virt: libvirt.virConnect | None = None
        self._in_flight = 0
        self._changing = 0
        """Those of them that change something."""
        self.astray = False
        """A call that changes something lost its connection: it may be carried out yet."""
        self._idle = asyncio.Event()
        self._idle.set()
        self._up = asyncio.Event()
        self._lost = asyncio.Event()
        self._made = asyncio.Event()
        self._closed_early: libvirt.virConnect | None = None
        self._keeper: asyncio.Task[None] | None = None
        self.generation = 0
        """Counts connections made; a caller waiting for a reconnect compares it."""

    async def open(self) -> None:
        """Connect once (raises Unavailable), then keep connected until :meth:`close`."""
        self._loop = asyncio.get_running_loop()
        EVENT_THREAD.ensure()
        self._executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="libvirt")
        try:
            await self._connect()
        except BaseException:
            self._executor.shutdown(wait=False)
            self._executor = None
            raise
        self._keeper = asyncio.create_task(self._keep(), name="libvirt-keeper")

    async def close(self) -> None:
        """Stop reconnecting, let every call end, disconnect."""
        if self._keeper is not None:
            self._keeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._keeper
            self._keeper = None
        executor, virt = self._executor, self._virt
        self._executor, self._virt = None, None
        self._up.clear()
        if executor is None:
            return
        if virt is not None:
            with suppress(Unavailable, TimeoutError):
                await asyncio.wait_for(
                    asyncio.wrap_future(executor.submit(_disconnect, virt)), self._call_timeout_s
                )
        executor.shutdown(wait=False)

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    @property
    def in_flight(self) -> int:
        """Calls whose thread has not returned."""
        return self._in_flight

    async def quiesce(self) -> None:
        """Return when no call is in flight."""
        while self._in_flight:
            await self._idle.wait()

    async def call(
        self,
        what: str,
        function: Callable[[libvirt.virConnect], T],
        *,
        changes: bool = False,
        timeout_s: float | None = None,
    ) -> T:
        """Run ``function(connection)`` in a thread and translate what it raises.

        After ``timeout_s`` the caller gets on with UnknownOutcome (Unavailable for a pure look); the thread
        stays counted until libvirt lets it go.
        """
        virt = self._virt
        if virt is None or not self._up.is_set() or self._executor is None:
            raise Unavailable(f"{what}: not connected to {self.uri}")
        future = self._submit(function, virt, changes)
        try:
            async with asyncio.timeout(timeout_s or self._call_timeout_s):
                return await asyncio.wrap_future(future)
        except TimeoutError:
            kind = UnknownOutcome if changes else Unavailable
            raise kind(f"{what}: no answer within {timeout_s or self._call_timeout_s} s") from None
        except libvirt.libvirtError as error:
            if connection_lost(error):
                self._drop(virt)
            raise translate(error, changes=changes, what=what) from error

    def _submit(
        self, function: Callable[[libvirt.virConnect], T], virt: libvirt.virConnect, changes: bool
    ) -> Future[T]:
        assert self._executor is not None
        self._in_flight += 1
        self._changing += changes
        self._idle.clear()
        try:
            future = self._executor.submit(function, virt)
        except BaseException:
            self._returned(changes, False)
            raise
        future.add_done_callback(partial(self._done_in_thread, changes))
        return future

    def _done_in_thread(self, changes: bool, future: Future[T]) -> None:
        assert self._loop is not None
        # Here and not in call(), which may have given up on the thread long before.
        error = None if future.cancelled() else future.exception()
        lost = changes and isinstance(error, libvirt.libvirtError) and connection_lost(error)
        with suppress(RuntimeError):  # the loop is closed: nobody counts any more
            self._loop.call_soon_threadsafe(self._returned, changes, lost)

    def _returned(self, changes: bool, lost: bool) -> None:
        # Safety: before the count, which quiesce waits for: whoever asks after it is told.
        self.astray = self.astray or lost
        self._in_flight -= 1
        self._changing -= changes
        if not self._in_flight:
            self._idle.set()

    # --- connecting

    async def wait_reconnected(self, generation: int, timeout_s: float) -> None:
        """Return when a connection newer than ``generation`` is up; raises Unavailable."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.generation <= generation or not self._up.is_set():
                    self._made.clear()
                    await self._made.wait()
        except TimeoutError:
            raise Unavailable(f"{self.uri} did not come back within {timeout_s} s") from None

    async def _connect(self) -> None:
        assert self._executor is not None
        future = self._executor.submit(self._connect_in_thread)
        try:
            async with asyncio.timeout(self._call_timeout_s):
                virt = await asyncio.wrap_future(future)
        except libvirt.libvirtError as error:
            raise Unavailable(f"connect {self.uri}: {error.get_error_message()}") from error
        except TimeoutError:
            raise Unavailable(f"connect {self.uri}: no answer within {self._call_timeout_s} s") from None
        self._virt = virt
        self._lost.clear()
        self.generation += 1
        self._up.set()
        self._made.set()
        if self._closed_early is virt:  # it died between its birth and this line
            self._drop(virt)

    def _connect_in_thread(self) -> libvirt.virConnect:
        virt = libvirt.open(self.uri)
        try:
            virt.registerCloseCallback(self._closed_in_thread, virt)
            virt.setKeepAlive(_KEEPALIVE_S, _KEEPALIVE_COUNT)
        except libvirt.libvirtError as error:
            # The test driver has neither; it cannot die either.
            if error.get_error_code() != libvirt.VIR_ERR_NO_SUPPORT:
                raise
        self._on_connect(virt)
        return virt

    def _closed_in_thread(self, _virt: libvirt.virConnect, _reason: int, opaque: libvirt.virConnect) -> None:
        assert self._loop is not None
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._drop, opaque)

    def _drop(self, virt: libvirt.virConnect) -> None:
        """This connection is dead: nobody uses it again, and the keeper makes another."""
        self._closed_early = virt
        if self._virt is virt:
            # Safety: now, and not when their threads return: somebody may ask before that.
            self.astray = self.astray or bool(self._changing)
            log.warning("libvirtd_lost", uri=self.uri, astray=self.astray)
            self._virt = None
            self._up.clear()
            self._lost.set()

    async def _keep(self) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            await self._lost.wait()
            try:
                await self._connect()
            except Unavailable as error:
                log.info("libvirtd_unreachable", uri=self.uri, error=str(error), retry_s=round(wait_s, 2))
                await asyncio.sleep(wait_s * random.uniform(0.75, 1.25))
                wait_s = min(wait_s * 1.7, _LONGEST_WAIT_S)
                continue
            except Exception:
                log.exception("libvirtd_reconnect_failed", uri=self.uri)
                await asyncio.sleep(_LONGEST_WAIT_S)
                continue
            wait_s = _FIRST_WAIT_S
            log.info("libvirtd_back", uri=self.uri)
            self._on_reconnected()


def _disconnect(virt: libvirt.virConnect) -> None:
    with suppress(libvirt.libvirtError):
        virt.unregisterCloseCallback()
    with suppress(libvirt.libvirtError):
        virt.close()
