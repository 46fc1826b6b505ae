"""The scheduler's view: one list, one watch, and the nodes' own placement engine on top.

Owns: the world and its engine. Refuses: deciding.
Rule: an old picture costs a hint that no node honours, never more: so whatever is in doubt is listed again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from contextlib import aclosing
from typing import Final

import structlog

from ..core.placement import PlacementEngine
from ..core.state.cluster_state import ClusterState
from ..core.state.keys import Keys, Kind, ParsedKey
from ..ports import Compacted, Refused, Store, Unavailable

log = structlog.get_logger()

KINDS: Final = (
    *(Kind.CLUSTER, Kind.GENERATION, Kind.VM_SPEC, Kind.NODE_SPEC, Kind.CLAIM, Kind.NODE_FACTS, Kind.FENCE),
    *(Kind.HALT, Kind.HINT, Kind.PENALTY, Kind.NODE_ALIVE, Kind.VM_STATUS, Kind.VOLUME),
)
"""What an engine is made of; all before the secrets, which a scheduler has no right to read."""
_MOST_RETRY_S: Final = 5.0


class Picture:
    """The cluster as a scheduler sees it."""

    def __init__(self, store: Store, keys: Keys, changed: Callable[[], None]) -> None:
        self.world = ClusterState(keys)
        self.engine = PlacementEngine(self.world)
        self.listed = False
        """Everything has been seen once."""
        self._store, self._keys, self._changed = store, keys, changed
        self._cluster_id = 0
        self._moved = asyncio.Event()

    async def run(self) -> None:
        """Follow the store for ever."""
        backoff_s = 0.1
        while True:
            try:
                await self._look()
                backoff_s = 0.1
                await self._follow()
            except (Unavailable, Refused) as error:
                log.warning("etcd_unreachable", error=str(error), retry_in_s=backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(_MOST_RETRY_S, backoff_s * 2)

    async def _look(self) -> None:
        snapshot = await self._store.list(*self._keys.prefixes(KINDS))
        same = snapshot.cluster_id == self._cluster_id and snapshot.revision >= self.world.revision
        if not same:  # the first one, or etcd was restored: numbers of before mean nothing
            self.world = ClusterState(self._keys)
            self._cluster_id = snapshot.cluster_id
        touched = self.world.load(snapshot)
        if same:
            self._told(touched)
        else:
            self.engine = PlacementEngine(self.world)
            self._told(())
        self.listed = True

    async def _follow(self) -> None:
        """Fold in what the watch delivers, until it is time to look at everything again."""
        world, keys = self.world, self._keys
        public = self._store.watch(
            keys.prefix(), world.revision, world.on_demand, until=keys.prefix(Kind.SECRET)
        )
        try:
            async with (
                asyncio.timeout(world.config.full_look_s),
                aclosing(public) as batches,
            ):
                async for batch in batches:
                    if batch.cluster_id not in (0, self._cluster_id):
                        return
                    self._told(self.world.apply(batch))
        except TimeoutError:
            return
        except Compacted:
            log.info("watch_compacted", revision=self.world.revision)

    def _told(self, touched: Collection[ParsedKey]) -> None:
        self.engine.update(sorted(touched, key=lambda key: (key.kind, key.names)))
        self._moved.set()
        self._moved = asyncio.Event()
        self._changed()

    async def reached(self, revision: int, timeout_s: float) -> bool:
        """Whether the picture is at least that new, within the time."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.world.revision < revision:
                    await self._moved.wait()
        except TimeoutError:
            return False
        return True
