"""The mirror: the agent's copy of the world, kept by one list and one watch.

Owns: the world and its freshness. Refuses: deciding anything.
Rule: a view is never older than my own last write: :meth:`Mirror.reached` is awaited after every commit.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

import structlog

from ..core.keys import Keys, Kind, ParsedKey
from ..core.world import World
from ..ports import Compacted, Denied, Store, Unavailable

log = structlog.get_logger()

LISTED = (
    Kind.CLUSTER,
    Kind.GENERATION,
    Kind.IMAGE,
    Kind.VM_SPEC,
    Kind.NODE_SPEC,
    Kind.CLAIM,
    Kind.NODE_FACTS,
    Kind.FENCE,
    Kind.HALT,
    Kind.NODE_ALIVE,
    Kind.VM_STATUS,
    Kind.VOLUME,
)


def listed_prefixes(keys: Keys) -> tuple[str, ...]:
    """What is listed: everything but events, history and tickets, which grow and are read on demand."""
    single = {Kind.CLUSTER: keys.cluster(), Kind.GENERATION: keys.generation()}
    return tuple(single.get(kind) or keys.prefix(kind) for kind in LISTED)


class Mirror:
    """Lists once, then follows; lists again when the watch breaks and every full look."""

    def __init__(self, store: Store, keys: Keys, changed: Callable[[set[ParsedKey]], None]) -> None:
        self.world = World(keys)
        self.listed = asyncio.Event()
        """Set once everything has been listed since this process started."""
        self.went_back = False
        """etcd's revision is below one that was seen: it was restored or replaced. Nothing may be done."""
        self._store = store
        self._keys = keys
        self._changed = changed
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0

    async def run(self) -> None:
        """Follow the store for ever."""
        backoff_s = 0.1
        while True:
            try:
                await self.look()
                backoff_s = 0.1
                async for batch in self._store.watch(self._keys.prefix(), self.world.revision):
                    changed = self.world.apply(batch)
                    self._wake()
                    if changed:
                        self._changed(changed)
            except Compacted:
                log.info("mirror_compacted", revision=self.world.revision)
            except (Unavailable, Denied) as error:
                log.warning("store_unreachable", error=str(error), retry_in_s=backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(5.0, backoff_s * 2)

    async def look(self) -> None:
        """List everything again: the net under the watch."""
        before = self.world.revision
        snapshot = await self._store.list(*listed_prefixes(self._keys))
        if snapshot.revision < before:
            # Safety: claims that a restored etcd has forgotten must not look like claims that were released.
            if not self.went_back:
                log.error("store_went_back", seen=before, now=snapshot.revision)
            self.went_back = True
            raise Unavailable("etcd's revision went back: it was restored from a backup or replaced")
        if snapshot.revision < self.world.revision:
            return  # the watch ran ahead of this list: what it delivered is newer
        self.went_back = False
        changed = self.world.load(snapshot)
        self.listed.set()
        self._wake()
        if changed:
            self._changed(changed)

    async def reached(self, revision: int, timeout_s: float = 10.0) -> None:
        """Return when the world is at least as new as ``revision``; raises Unavailable after the timeout."""
        if self.world.revision >= revision:
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._count += 1
        heapq.heappush(self._waiters, (revision, self._count, future))
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            raise Unavailable(f"the watch has not delivered revision {revision}") from None

    def _wake(self) -> None:
        while self._waiters and self._waiters[0][0] <= self.world.revision:
            _, _, future = heapq.heappop(self._waiters)
            if not future.done():
                future.set_result(None)
