"""The name hold: for how long this node holds its name without being of use.

Owns: when this node gives its name up, so that other nodes may act, and how long it stays away then.
The node keeps its name while its claimed guests run, since a fence would end them, and while it has no claims.
Time that it waits for a known reason does not count: a storage that does not answer, an unblock that may still
land.
Rule: the time is counted beside the steps on the way to readiness, so a step that hangs cannot stop it. It is
counted across agents that die (:mod:`.hold_file`), so a crash loop cannot stop it either.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from ...ports import Hypervisor, Refused, Unavailable
from ..cache.informer import Informer
from .foreign_guests import claimed_guests_run
from .hold_file import HoldFile

USELESS_S: Final = 60.0
"""Registered for so long, in however many sessions, and none of them ready for :data:`STABLE_S`."""
STABLE_S: Final = 30.0
AWAY_S: Final = 15.0
"""For the others: the grace, and a fence. Twice as long each time."""
AWAY_MAX_S: Final = 120.0
SHORT_SESSION_WAIT_S: Final = 0.2
SHORT_SESSION_WAIT_MAX_S: Final = 5.0
WATCH_EVERY_S: Final = 5.0
"""So often it is looked at from beside a step."""
LIBVIRT_ANSWER_S: Final = 10.0
"""A libvirt that needs longer to say what runs may have a guest."""


class NameHold:
    """What this process, and those before it, did with their node's place."""

    def __init__(self, name: str, informer: Informer, hypervisor: Hypervisor, hold_file: HoldFile) -> None:
        self._name, self._informer, self._hypervisor, self._hold_file = name, informer, hypervisor, hold_file
        self._from_s: float | None = None
        """Since when this process holds the name without a ready session; None: it does not."""
        self._ready_from_s: float | None = None
        self._stable: asyncio.TimerHandle | None = None
        self._soon = self._given_up = 0
        self._bound: asyncio.Timeout | None = None
        """Ends the steps that are watched now; None: none are."""

    async def run(self) -> None:
        """Watch the steps in :meth:`watched`, in a task of its own."""
        while True:
            await asyncio.sleep(WATCH_EVERY_S)
            bound = self._bound
            if bound is None or not await self.is_useless():
                continue
            if bound is self._bound and not bound.expired():  # it may have ended meanwhile
                bound.reschedule(asyncio.get_running_loop().time())

    def begin(self) -> float:
        """Once in a process: how long to stay away still, as an agent that died meanwhile decided; seconds."""
        now_s = asyncio.get_running_loop().time()
        self._hold_file.begin(now_s, AWAY_MAX_S)
        self._given_up = self._hold_file.held.given_up
        return max(0.0, self._hold_file.held.away_until_s - now_s)

    def registered(self) -> None:
        now_s = asyncio.get_running_loop().time()
        if self._from_s is None:
            self._from_s = now_s
        self._hold_file.registered(now_s)

    def ready(self) -> None:
        loop = asyncio.get_running_loop()
        self._ready_from_s = loop.time()
        # Also while the session lasts: an agent that is killed in it was of use.
        self._stable = loop.call_later(STABLE_S, self.forget)

    def waits(self) -> None:
        """For something with a name: that time does not count."""
        self._from_s = None

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """The same, for as long as it lasts."""
        self._from_s = None
        yield
        self._from_s = asyncio.get_running_loop().time()

    def forget(self) -> None:
        """It is of use, or somebody stops its agent: nothing counts any more."""
        self._from_s, self._soon, self._given_up = None, 0, 0
        self._hold_file.forget()

    async def is_useless(self) -> bool:
        """Whether it is to be given up, now."""
        return self._unused_too_long() and not await self._guests_run()

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        """What a session does between its registration and its readiness.

        Raises Refused when one of those steps hangs for :data:`USELESS_S`.
        Safety: the step is left as a crash of this agent would leave it, its marks included. The next session
        waits for a call that is in flight.
        """
        bound = asyncio.timeout(None)
        try:
            async with bound:
                self._bound = bound
                try:
                    yield
                finally:
                    self._bound = None
        except TimeoutError:
            if bound.expired():
                raise Refused(
                    f"registered for {USELESS_S:g} s and not ready, and no claimed guest runs here: "
                    f"{self._name} ends its session, so that other nodes may take its VMs"
                ) from None
            raise

    async def away_s(self) -> float:
        """How long to stay away after a session ended, or did not come about; seconds."""
        now_s, ready_from_s = asyncio.get_running_loop().time(), self._ready_from_s
        self._ready_from_s = None
        if self._stable is not None:
            self._stable.cancel()
            self._stable = None
        if ready_from_s is not None:
            if now_s - ready_from_s >= STABLE_S:
                self.forget()
                return 0.0
            self._soon += 1
        vain = self._unused_too_long()
        if not vain and (ready_from_s is None or self._soon < 2):
            return 0.0
        if await self._guests_run():
            return 0.0
        if not vain:
            return float(min(SHORT_SESSION_WAIT_MAX_S, SHORT_SESSION_WAIT_S * 2 ** min(10, self._soon - 2)))
        self._from_s = None
        self._given_up += 1
        away_s = float(min(AWAY_MAX_S, AWAY_S * 2 ** min(10, self._given_up - 1)))
        self._hold_file.record_give_up(self._given_up, asyncio.get_running_loop().time() + away_s)
        return away_s

    def _unused_too_long(self) -> bool:
        now_s = asyncio.get_running_loop().time()
        held = self._from_s is not None and now_s - self._from_s >= USELESS_S
        held = held or self._hold_file.deaths_exceeded(now_s, USELESS_S)
        return held and bool(self._informer.world.unfenced(self._name))

    async def _guests_run(self) -> bool:
        try:
            async with asyncio.timeout(LIBVIRT_ANSWER_S):
                return await claimed_guests_run(self._hypervisor, self._informer.world, self._name)
        except (Unavailable, Refused, TimeoutError):
            return True  # perhaps they do
