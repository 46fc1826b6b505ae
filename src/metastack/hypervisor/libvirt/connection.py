"""The connection to libvirtd: calls in counted threads, and a way back when the daemon dies.

Owns: the ``virConnect``, the executor, the count of calls in flight, the reconnecting.
Refuses: knowing what a domain is.
Rule: a call is counted from before it is handed to a thread until that thread has returned, whatever became
of the await. ``quiesce`` waits for the count, never for the awaits. A call that a broken connection ended is
not over: a daemon that only hung has it still. That is noted until a barrier (``astray``).

An order to a domain is that domain's: it has a thread and a connection of its own (:mod:`.order_connections`),
however long its QEMU does not answer. While nobody waits for it any more that domain gets no further order but
its end.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

import libvirt
import structlog

from metastack.ports import Unavailable, UnknownOutcome
from metastack.ports.threads import Threads

from .errors import connection_lost, translate
from .events import EVENT_THREAD
from .order_connections import KEEPALIVE_COUNT, KEEPALIVE_S, OrderConnections

log = structlog.get_logger()

T = TypeVar("T")

_FIRST_WAIT_S: Final = 0.02
_LONGEST_WAIT_S: Final = 2.0
MOST_BESIDE: Final = 16
"""After this many orders to one domain not even its end is ordered once more."""


@dataclass(eq=False)
class Call:
    """One call, from before its thread has it until that has returned."""

    what: str
    changes: bool
    uuid: str
    """The domain that it is an order to; empty: none."""
    boots: bool
    ends: bool
    """It ends the domain, so it may be given while others have no answer."""
    main: libvirt.virConnect
    """The main connection when it was begun."""
    limit: asyncio.Timeout | None = None
    """While somebody waits for it."""
    given_up: bool = False
    """Nobody does any more."""


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
        self._executor: Threads | None = None
        self._virt: libvirt.virConnect | None = None
        self._lines: OrderConnections | None = None
        """For orders to domains; None: this driver has one connection for everything."""
        self._calls: set[Call] = set()
        self.astray = False
        """A call that changes something lost its connection: it may be carried out yet."""
        self._one_returned = asyncio.Event()
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
        self._executor = Threads("libvirt")
        try:
            await self._connect()
        except BaseException:
            self._executor.close()
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
                    asyncio.wrap_future(executor.submit(partial(_disconnect, virt))), self._call_timeout_s
                )
        if self._lines is not None:
            self._lines.forget()
        executor.close()

    @property
    def connected(self) -> bool:
        return self._up.is_set()

    @property
    def in_flight(self) -> int:
        """Calls whose thread has not returned."""
        return len(self._calls)

    async def quiesce(self, uuid: str = "", *, starts: bool = False) -> None:
        """Return when no call is in flight; none that is an order to that domain; none that starts one."""
        while any(
            call for call in self._calls if (not uuid or call.uuid == uuid) and (call.boots or not starts)
        ):
            self._one_returned.clear()
            await self._one_returned.wait()

    def interrupt(self, starts: bool) -> None:
        """A task that waits for a call goes on as if its time were over. With ``starts`` also for a start."""
        assert self._loop is not None
        for call in self._calls:
            if call.limit is not None and not call.limit.expired() and (starts or not call.boots):
                call.limit.reschedule(self._loop.time())

    async def call(
        self,
        what: str,
        function: Callable[[libvirt.virConnect], T],
        *,
        changes: bool = False,
        uuid: str = "",
        boots: bool = False,
        ends: bool = False,
        timeout_s: float | None = None,
    ) -> T:
        """Run ``function(connection)`` in a thread and translate what it raises. ``uuid``: of its domain.

        After ``timeout_s`` the caller gets on with UnknownOutcome (Unavailable for a pure look); the thread
        stays counted until libvirt lets it go.
        """
        virt, timeout_s = self._virt, timeout_s or self._call_timeout_s
        if virt is None or not self._up.is_set() or self._executor is None:
            raise Unavailable(f"{what}: not connected to {self.uri}")
        call = Call(what, changes, uuid, boots, ends, virt)
        self._refuse_beside(call)
        future = self._submit(call, function, virt)
        try:
            async with asyncio.timeout(timeout_s) as call.limit:
                return await asyncio.wrap_future(future)
        except TimeoutError:
            call.given_up = True
            kind = UnknownOutcome if changes else Unavailable
            raise kind(f"{what}: no answer within {timeout_s} s") from None
        except asyncio.CancelledError:
            call.given_up = True
            raise
        except libvirt.libvirtError as error:
            if connection_lost(error):
                self._drop(virt)
            raise translate(error, changes=changes, what=what) from error
        finally:
            call.limit = None

    def _refuse_beside(self, call: Call) -> None:
        """Raise Unavailable for an order beside one to the same domain that has no answer."""
        beside = [other for other in self._calls if call.uuid and other.uuid == call.uuid]
        for other in beside:
            if call.boots or (len(beside) >= MOST_BESIDE if call.ends else other.given_up):
                raise Unavailable(f"{call.what}: no answer yet to {other.what}; nothing was sent")

    def _submit(
        self, call: Call, function: Callable[[libvirt.virConnect], T], virt: libvirt.virConnect
    ) -> Future[T]:
        assert self._executor is not None
        self._calls.add(call)
        work = partial(function, virt)
        if call.uuid and self._lines is not None:
            work = partial(_on_a_line, self._lines, call, function)
        try:
            future = self._executor.submit(work)
        except RuntimeError as error:
            self._returned(call, False)
            raise Unavailable(f"{call.what}: {error}; nothing was sent") from None
        future.add_done_callback(partial(self._done_in_thread, call))
        return future

    def _done_in_thread(self, call: Call, future: Future[T]) -> None:
        assert self._loop is not None
        # Here and not in call(), which may have given up on the thread long before.
        error = None if future.cancelled() else future.exception()
        lost = call.changes and isinstance(error, libvirt.libvirtError) and connection_lost(error)
        with suppress(RuntimeError):  # the loop is closed: nobody counts any more
            self._loop.call_soon_threadsafe(self._returned, call, lost)

    def _returned(self, call: Call, lost: bool) -> None:
        # Safety: before the count, which quiesce waits for: whoever asks after it is told.
        self.astray = self.astray or lost
        self._calls.discard(call)
        self._one_returned.set()
        if lost:
            # An order's own connection ended: the main one is made again, which tells everybody to look.
            self._drop(call.main)

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
        if self._lines is None and _has_many(virt):
            self._lines = OrderConnections(self.uri)
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
            virt.setKeepAlive(KEEPALIVE_S, KEEPALIVE_COUNT)
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
            self.astray = self.astray or any(call.changes for call in self._calls)
            if self._lines is not None:
                self._lines.forget()
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
            log.info("libvirtd_reconnected", uri=self.uri)
            self._on_reconnected()


def _has_many(virt: libvirt.virConnect) -> bool:
    """Several connections show the same. A test driver with a file has its state in each of them."""
    return str(virt.getType()) != "TEST"


def _on_a_line(lines: OrderConnections, call: Call, function: Callable[[libvirt.virConnect], T]) -> T:
    """In a thread: an order on a connection of its own."""
    virt, life = lines.take()
    if call.given_up:
        # A daemon that hung until now: whoever wanted this has been told, and looks again.
        lines.give(virt, life)
        raise Unavailable(f"{call.what}: libvirtd took too long; nothing was sent")
    try:
        result = function(virt)
    except Exception as error:
        if not (isinstance(error, libvirt.libvirtError) and connection_lost(error)):
            lines.give(virt, life)
        raise
    lines.give(virt, life)
    return result


def _disconnect(virt: libvirt.virConnect) -> None:
    with suppress(libvirt.libvirtError):
        virt.unregisterCloseCallback()
    with suppress(libvirt.libvirtError):
        virt.close()
