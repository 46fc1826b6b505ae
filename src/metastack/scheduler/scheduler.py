"""The scheduler: stand, advise while elected, stand again.

Owns: one scheduler's life. Refuses: being needed: when all of them are dead, hints end with their lease and
the nodes choose alone, as they do for every VM without a hint.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from ..core.protocol.leader_terms import LeaderTerm
from ..core.state.keys import Keys
from ..ports import Levelled, Store
from .advice import Advice
from .election import Election

log = structlog.get_logger()

TTL_S: Final = 5
"""So long do hints outlive a scheduler that died, and so long is nobody elected, seconds."""


class Scheduler:
    """One of any number."""

    def __init__(
        self, *, store: Store, keys: Keys, name: str, stamp: Callable[[], str], ttl_s: int = TTL_S
    ) -> None:
        self.name = name
        store = Levelled(store, keys, lambda: self.advice.picture.world.level)
        self._election = Election(store, keys, name, ttl_s, stamp)
        self.advice = Advice(store, keys, name)

    async def run(self, stop: asyncio.Event) -> None:
        """Work until ``stop`` is set; then the hints go, and another one may stand at once."""
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in (self.advice.picture.run(), self._serve())]
            await stop.wait()
            for task in tasks:
                task.cancel()
        await self._election.resign()

    async def _serve(self) -> None:
        while True:
            term = await self._election.win()
            log.info("elected", scheduler=self.name, term=term.revision)
            why = await self._lead(term)
            log.warning("deposed", scheduler=self.name, term=term.revision, why=why)
            await self._election.resign()

    async def _lead(self, term: LeaderTerm) -> str:
        """Until the lease is lost or somebody else leads; returns why."""
        async with asyncio.TaskGroup() as group:
            both = [group.create_task(self._election.hold()), group.create_task(self.advice.give(term))]
            ended, going = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in going:
                task.cancel()
        return ended.pop().result()
