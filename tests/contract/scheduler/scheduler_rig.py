"""Schedulers on a store of either kind."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from commands_rig import Rig

from metastack.core.model import Hint, Leader, VmId
from metastack.core.protocol.leader_terms import LeaderTerm
from metastack.core.state.codec import decode
from metastack.core.state.keys import Keys, Kind
from metastack.ports import Store
from metastack.scheduler.scheduler import Scheduler

DEADLINE_S = 30.0
TTL_S = 2


class Backend:
    """A cluster for schedulers."""

    def __init__(self, keys: Keys, client: Callable[[], Store]) -> None:
        self.keys, self._client = keys, client
        self.stores: list[Store] = []
        self.rig: Rig

    def client(self) -> Store:
        self.stores.append(self._client())
        return self.stores[-1]

    def scheduler(self, name: str, ttl_s: int = TTL_S) -> Scheduler:
        return Scheduler(
            store=self.client(), keys=self.keys, name=name, stamp=lambda: "2026-01-01T00:00:00Z", ttl_s=ttl_s
        )

    @asynccontextmanager
    async def running(self, *schedulers: Scheduler) -> AsyncIterator[list[asyncio.Task[None]]]:
        """Schedulers at work; killed at the end, as a power cut would."""
        tasks = [asyncio.ensure_future(one.run(asyncio.Event())) for one in schedulers]
        try:
            yield tasks
        finally:
            await kill(*tasks)

    async def leader(self) -> str:
        entry = await self.rig.store.get(self.keys.leader())
        return decode(Leader, entry.value).name if entry is not None else ""

    async def term(self) -> LeaderTerm:
        """The living one; of revision 0 when there is none."""
        entry = await self.rig.store.get(self.keys.leader())
        if entry is None:
            return LeaderTerm(revision=0, lease=0)
        return LeaderTerm(revision=entry.create_revision, lease=entry.lease)

    async def elected(self, name: str, after: int = 0) -> LeaderTerm:
        """Wait until that scheduler leads, in a term after that one."""

        async def leads() -> bool:
            return await self.leader() == name and (await self.term()).revision > after

        await self.until(f"{name} leads", leads)
        return await self.term()

    async def hints(self) -> dict[str, Hint]:
        snapshot = await self.rig.store.list(self.keys.prefix(Kind.HINT))
        return {e.key.rpartition("/")[2]: decode(Hint, e.value) for e in snapshot.entries}

    async def until(self, what: str, check: Callable[[], object]) -> None:
        """Look at every change until it is so; ``check`` may be a coroutine function."""
        seen: object = None
        try:
            async with asyncio.timeout(DEADLINE_S):
                revision = (await self.rig.store.list(self.keys.prefix())).revision
                if await _told(check):
                    return
                async for _ in self.rig.store.watch(self.keys.prefix(), revision):
                    seen = await _told(check)
                    if seen:
                        return
        except TimeoutError:
            entries = (await self.rig.store.list(self.keys.prefix())).entries
            keys = "\n".join(f"  {e.key} {e.value.decode()}" for e in entries if "/events/" not in e.key)
            raise AssertionError(f"not within {DEADLINE_S:g} s: {what}; last: {seen}\n{keys}") from None


async def _told(check: Callable[[], object]) -> object:
    found = check()
    return await found if asyncio.iscoroutine(found) else found


async def kill(*tasks: asyncio.Task[None]) -> None:
    """End schedulers at once; none gives its lease back."""
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


def vm(name: str) -> VmId:
    return VmId("default", name)
