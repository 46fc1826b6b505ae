"""The daemon of the in-memory hypervisor: calls, requests, its deaths and those of its clients.

Owns: when a request takes effect, and what its caller hears. Refuses: knowing what a domain is.
Rule: a call is a thread and requests. Cancelling the await stops neither. The thread belongs to the process
that called (a stopped process sends nothing more); a request that was sent sits in the daemon. Unless a barrier
comes first it takes effect when its time has come, also when its sender is dead or its connection ended.
``quiesce`` awaits threads; ``astray`` tells of requests that no thread waits for any more.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass
from typing import Final, TypeVar

from metastack.ports import Unavailable, UnknownOutcome

from .calls import seen

T = TypeVar("T")


_TO_QEMU: Final = frozenset({"pause", "resume", "shutdown", "retag"})
"""Requests that QEMU itself has to answer."""
SIGTERM_S: Final = 10.0
"""How long libvirtd waits for a QEMU that it ends before it kills it."""


@dataclass(eq=False)
class _Call:
    what: str
    uuid: str
    changes: bool
    limit: asyncio.Timeout | None = None
    given_up: bool = False


class MemoryDaemon:
    """What takes requests, one life after the other."""

    def __init__(self, call_s: float) -> None:
        self.call_s = call_s
        """How long any call takes, seconds."""
        self.fail: Callable[[str, str], Exception | None] = lambda _what, _uuid: None
        """Fault injection: asked with the call's name and the domain's uuid when it takes effect."""
        self.slow_s: Callable[[str], float] = lambda _what: 0.0
        """How long a request takes more, seconds; asked with the call's name."""
        self.patience_s: float | None = None
        """How long a caller waits for a call, seconds; the call goes on. None: for ever."""
        self._calls: dict[asyncio.Task[object], _Call] = {}
        """Under way."""
        self.hung: dict[str, asyncio.Event] = {}
        """Guests whose QEMU is stopped (SIGSTOP): it carries no order out. Each with what ends the wait."""
        self._astray = False
        self._daemon = 1
        """Number of the daemon's life; 0 while it is down."""
        self._lives = 1
        self._broken: asyncio.Future[None] | None = None
        """Done when the connection of now ends."""

    def _post(self, uuid: str, what: str) -> None:
        raise NotImplementedError

    # --- what a test or the simulator does to it

    @property
    def alive(self) -> bool:
        """The daemon runs."""
        return bool(self._daemon)

    def daemon_dies(self) -> None:
        """Every call fails from now on, and those under way have no effect; guests carry on."""
        self._lose()
        self._daemon = 0
        for uuid in list(self.hung):
            self._wake(uuid)

    def daemon_returns(self) -> None:
        self._lives += 1
        self._daemon = self._lives
        self._post("", "reconnected")

    def connection_ends(self) -> None:
        """A daemon that hangs is given up: its callers hear so, and what they sent stays in it."""
        self._lose()
        if self._broken is not None:
            self._broken.set_result(None)
            self._broken = None
        self._post("", "reconnected")

    def hangs(self, uuid: str) -> None:
        """Its QEMU is stopped."""
        self.hung.setdefault(uuid, asyncio.Event())

    def thaws(self, uuid: str) -> None:
        """Its QEMU goes on, or is gone."""
        if (event := self.hung.pop(uuid, None)) is not None:
            event.set()

    def in_flight(self, uuid: str) -> bool:
        """An order to that domain has not ended."""
        return any(call.changes and call.uuid == uuid for call in self._calls.values())

    def _wake(self, uuid: str) -> None:
        self.hung[uuid].set()
        self.hung[uuid] = asyncio.Event()

    def _lose(self) -> None:
        # As with libvirt: whether the daemon died or only the connection ended, this client cannot tell.
        self._astray = self._astray or any(call.changes for call in self._calls.values())

    def client_dies(self) -> None:
        """SIGKILL of the process that called: its requests stay in the daemon, its threads are gone."""
        self._calls, self._astray = {}, False

    # --- the port's

    async def quiesce(self, uuid: str = "") -> None:
        """Return when no call's thread is at work; with ``uuid``, none for that domain."""
        while left := [task for task, call in self._calls.items() if not uuid or call.uuid == uuid]:
            await asyncio.wait(left)

    async def quiesce_starts(self) -> None:
        """Return when no start's thread is at work."""
        while left := [task for task, call in self._calls.items() if call.what == "boot"]:
            await asyncio.wait(left)

    async def interrupt(self, starts: bool = False) -> None:
        """A task that waits for a call goes on; so does the call."""
        for call in self._calls.values():
            limit = call.limit
            if limit is not None and not limit.expired() and (starts or call.what != "boot"):
                limit.reschedule(asyncio.get_running_loop().time())

    async def astray(self) -> bool:
        """Whether a request of this client may sit in the daemon with nobody waiting for it."""
        return self._astray

    async def barrier(self) -> None:
        """Restart: what sits in the daemon is gone."""

        async def restart() -> None:
            self.daemon_dies()
            await asyncio.sleep(self.call_s)
            self._astray = False
            self.daemon_returns()

        # Whoever asked for it may be stopped or die: the daemon comes back.
        await asyncio.shield(asyncio.get_running_loop().create_task(restart(), context=Context()))

    # --- inside

    async def _call(
        self,
        what: str,
        uuid: str,
        effect: Callable[[], T],
        *,
        changes: bool = True,
        then: tuple[float, Callable[[], T], Callable[[], Awaitable[None]]] | None = None,
    ) -> T:
        if not self._daemon:
            raise Unavailable(f"{what} {uuid}: the daemon is down")
        told = _Call(what, uuid, changes)
        self._refuse_beside(told)
        call = asyncio.get_running_loop().create_task(self._thread(what, uuid, effect, changes, then))
        self._calls[call] = told
        call.add_done_callback(self._returned)
        try:
            async with asyncio.timeout(self.patience_s) as told.limit:
                return await asyncio.shield(call)
        except asyncio.CancelledError:
            told.given_up = True
            raise
        except TimeoutError:
            told.given_up = True
            error = UnknownOutcome if changes else Unavailable
            raise error(f"{what} {uuid}: no answer within {self.patience_s} s; it may still happen") from None
        finally:
            told.limit = None

    def _refuse_beside(self, call: _Call) -> None:
        for other in self._calls.values() if call.changes and call.uuid else ():
            if other.uuid != call.uuid or not other.changes or "console" in (call.what, other.what):
                continue
            if call.what == "boot" or (call.what != "kill" and other.given_up):
                raise Unavailable(f"{call.what} {call.uuid}: no answer yet to {other.what}; nothing was sent")

    async def _thread(
        self,
        what: str,
        uuid: str,
        effect: Callable[[], T],
        changes: bool,
        then: tuple[float, Callable[[], T], Callable[[], Awaitable[None]]] | None,
    ) -> T:
        life = self._daemon
        broken = self._broken = self._broken or asyncio.get_running_loop().create_future()
        lost = (UnknownOutcome if changes else Unavailable)(f"{what} {uuid}: the daemon died")

        async def first() -> T:
            await asyncio.sleep(self.call_s + self.slow_s(what))
            if what == "kill" and uuid in self.hung:
                await asyncio.sleep(SIGTERM_S)
                self.thaws(uuid)
            while what in _TO_QEMU and uuid in self.hung and self._daemon == life:
                await self.hung[uuid].wait()
            if self._daemon != life:
                raise lost
            failure = self.fail(what, uuid)
            if failure is not None:
                raise failure
            return effect()

        result = await self._sent(first(), broken, lost)
        if then is not None:
            wait_s, next_effect, opening = then

            async def second() -> T:
                await asyncio.sleep(self.slow_s("start"))
                if self._daemon != life:
                    raise lost
                await opening()
                await asyncio.sleep(wait_s)
                if self._daemon != life:
                    raise lost
                return next_effect()

            result = await self._sent(second(), broken, lost)
        return result

    async def _sent(
        self, request: Coroutine[None, None, T], broken: asyncio.Future[None], lost: Exception
    ) -> T:
        """A request in the daemon: nobody's."""
        task = asyncio.get_running_loop().create_task(request, context=Context())
        task.add_done_callback(seen)
        await asyncio.wait((task, broken), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise lost
        return task.result()

    def _returned(self, call: asyncio.Task[object]) -> None:
        self._calls.pop(call, None)
        seen(call)
