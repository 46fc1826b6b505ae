"""A node whose configuration keeps it from being ready: it stays registered, reports why, and tries again.

Owns: how long it waits between two tries, and how often one and the same thing is logged.
Refuses: judging what is wrong, and waiting with VMs: a node that owns any leaves, for others to take them.
Rule: what only a person can mend is logged once, then rarely; every new session is an event for every node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import msgspec
import structlog

from ...core.model import NodeAlive
from ...core.protocol import claims
from ...core.protocol.guards import OwnSession
from ...core.transaction import Committed
from ...ports import Denied, Hypervisor, LocalTrouble, Refused, Store
from ..cache.informer import Informer
from ..waiting import is_set_within
from .foreign_guests import HostOccupied, claimed_guests_run
from .identity import Misconfigured

log = structlog.get_logger()

FIRST_S: Final = 2.0
LONGEST_S: Final = 15.0
SAY_AGAIN_S: Final = 300.0


class RegisteredSession(Protocol):
    """What this needs of the session that waits."""

    message: str

    @property
    def name(self) -> str: ...
    @property
    def number(self) -> int: ...
    @property
    def generation(self) -> int: ...
    @property
    def me(self) -> OwnSession: ...


class LogLimiter:
    """Whether to say something that may have been said before."""

    def __init__(self) -> None:
        self._said, self._at_s = "", 0.0

    def __call__(self, text: str) -> bool:
        """True for what was not said last, or not for a while."""
        now_s = asyncio.get_running_loop().time()
        if text == self._said and now_s - self._at_s < SAY_AGAIN_S:
            return False
        self._said, self._at_s = text, now_s
        return True


class ConfigRetry:
    """The waiting of one session; ``ended`` is set when that is lost."""

    def __init__(
        self,
        session: RegisteredSession,
        store: Store,
        informer: Informer,
        hypervisor: Hypervisor,
        describe: Callable[[], NodeAlive],
        ended: asyncio.Event,
    ) -> None:
        self._session, self._store, self._informer = session, store, informer
        self._hypervisor = hypervisor
        self._describe, self._ended = describe, ended
        self.log_limiter = LogLimiter()

    async def wait(self, step: Callable[[], Awaitable[None]]) -> None:
        """Do a step until neither the configuration nor this host's disk forbids it; raises Refused when the
        session ends first.

        Safety: registered and not ready, a node claims, boots and resumes nothing, and no fence of it begins:
        the moment after the registration, only longer.
        """
        wait_s = FIRST_S
        while True:
            try:
                await step()
                if wait_s > FIRST_S:
                    self._session.message = "starting"  # what was said is not so any more
                return
            except (Misconfigured, Denied) as error:
                if self._informer.world.unfenced(self._session.name) and not (
                    # Its own guests are well, and a stranger beside them is no reason to end them.
                    isinstance(error, HostOccupied) and await self._guests_run()
                ):
                    raise
                await self._say(str(error))
            except LocalTrouble as error:
                # Its guests are well, and nobody gains by their end: it stays registered, so none fences it.
                await self._say(f"needs its disk for a mark: {error}")
            if await is_set_within(self._ended, wait_s):
                raise Refused("the session was lost before it became ready")
            wait_s = min(LONGEST_S, wait_s * 2)

    async def _guests_run(self) -> bool:
        return await claimed_guests_run(self._hypervisor, self._informer.world, self._session.name)

    async def _say(self, why: str) -> None:
        session, world = self._session, self._informer.world
        session.message = why
        if self.log_limiter(f"not ready: {why}"):
            log.warning("not_ready", node=session.name, session=session.number, why=why)
        said = world.alive(session.name)
        if said is None or said.record is None or said.record.message != why:
            alive = msgspec.structs.replace(self._describe(), ready=False, generation=session.generation)
            outcome = await self._store.commit(claims.announce(world.keys, session.me, alive))
            if not isinstance(outcome, Committed):
                raise Refused("the session was lost before it became ready")
