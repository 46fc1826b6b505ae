"""Reading the cluster: the parts of the world that a question needs, and every change after that.

Owns: which prefixes are read, and the merged watch. Refuses: writing.
Rule: one look is at one revision. The watches of several prefixes run each at its own pace, so between two
looks a view can be some milliseconds ahead in one record and behind in another; it always catches up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Final

from metastack.core.model import ClusterConfig, VmId
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.keys import Keys, Kind
from metastack.core.transaction import Batch
from metastack.ports import Compacted, Store

from .request import Cluster

_BATCHES: Final = 256
"""Watch batches waiting to be folded; a slower reader slows the streams down."""

IMAGES: Final = (Kind.IMAGE, Kind.VM_SPEC)
"""What image views are made of."""
EVERYTHING: Final = (
    Kind.CLAIM,
    Kind.VM_STATUS,
    Kind.HALT,
    Kind.NODE_ALIVE,
    Kind.NODE_FACTS,
    Kind.FENCE,
    Kind.NODE_SPEC,
    Kind.CLUSTER,
    Kind.GENERATION,
    Kind.STORAGE,
    Kind.VM_SPEC,
    Kind.REFUSAL,
    Kind.SILENCED,
    Kind.MAINTENANCE,
    Kind.HOST_RETURN,
    Kind.CLUSTER_SHUTDOWN,
    Kind.HINT,
    Kind.PENALTY,
)
"""What VM and node views are made of."""


def engine_kinds(config: ClusterConfig) -> tuple[Kind, ...]:
    """What an engine is made of under these settings."""
    return (*EVERYTHING, Kind.VOLUME) if config.weight_last_node else EVERYTHING


async def read_engine_state(cluster: Cluster) -> ClusterState:
    """A world with everything that placement looks at."""
    return await read_world(cluster, cluster.keys.prefixes(engine_kinds(await cluster.config())))


def prefixes_of_vm(keys: Keys, vm: VmId, volume_uuid: str = "") -> list[str]:
    """Every key about one VM; as prefixes they may deliver a neighbour's too, which does no harm."""
    found = [keys.claim(vm), keys.vm_status(vm), keys.halt(vm)]
    if volume_uuid:
        found.append(keys.volume(vm.project, volume_uuid))
    return [*found, keys.vm_spec(vm)]


async def read_world(cluster: Cluster, wanted: Sequence[str]) -> ClusterState:
    """A world made of these prefixes, all at one revision."""
    world = ClusterState(cluster.keys)
    world.load(await cluster.store.list(*wanted))
    return world


class StateFollower:
    """A world that keeps up."""

    def __init__(self, cluster: Cluster, wanted: Sequence[str], queue: asyncio.Queue[Batch | None]) -> None:
        self.world = ClusterState(cluster.keys)
        self._cluster = cluster
        self._wanted = wanted
        self._queue = queue

    async def start(self) -> int:
        """Read everything; the revision to watch from."""
        snapshot = await self._cluster.store.list(*self._wanted)
        fresh = ClusterState(self._cluster.keys)
        fresh.load(snapshot)
        self.world = fresh
        return snapshot.revision

    async def changed(self) -> None:
        """Wait until something changed, and fold in all that waits."""
        batch = await self._queue.get()
        touched = await self._fold(batch)
        while not touched or not self._queue.empty():
            touched = await self._fold(await self._queue.get()) or touched

    async def _fold(self, batch: Batch | None) -> bool:
        if batch is None:  # a watch lost its place: look again
            await self.start()
            return True
        return bool(self.world.apply(batch))


@asynccontextmanager
async def follow(cluster: Cluster, wanted: Sequence[str]) -> AsyncIterator[StateFollower]:
    """A follower whose watches live as long as the body."""
    queue: asyncio.Queue[Batch | None] = asyncio.Queue(_BATCHES)
    follower = StateFollower(cluster, wanted, queue)
    revision = await follower.start()
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(_pump(cluster.store, p, revision, queue)) for p in wanted]
            try:
                yield follower
            finally:
                for task in tasks:
                    task.cancel()
    except BaseExceptionGroup as errors:
        raise _only(errors) from None


def _only(group: BaseExceptionGroup[BaseException]) -> BaseException:
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _pump(store: Store, prefix: str, after: int, queue: asyncio.Queue[Batch | None]) -> None:
    """One prefix's events into the queue, for ever."""
    while True:
        try:
            async for batch in store.watch(prefix, after):
                after = max(after, batch.revision)
                if batch.events:
                    await queue.put(batch)
        except Compacted:
            # The reader lists again; this stream goes on from a revision that the new list cannot precede.
            after = (await store.list(prefix)).revision
            await queue.put(None)
