"""The informer: the agent's copy of etcd's records, kept by one list and one watch.

Owns: the cluster state and its freshness.
Refuses: deciding anything; news of an etcd that agent/session/etcd_history does not believe.
Rule: a view is never older than this node's own last write: :meth:`Informer.reached` is awaited after every
commit.
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Callable

import structlog
from msgspec.structs import replace

from ...core.model import ClusterConfig
from ...core.rate_limits import full_looks_per_list
from ...core.state.cluster_state import ClusterState
from ...core.state.keys import Keys, Kind, ParsedKey
from ...core.transaction import Delete, Snapshot, Transaction
from ...ports import Compacted, Denied, Store, Unavailable
from ..session.etcd_history import EtcdHistory

log = structlog.get_logger()

LISTED = (
    Kind.CLUSTER,
    Kind.GENERATION,
    Kind.STORAGE,
    Kind.IMAGE,
    Kind.VM_SPEC,
    Kind.NODE_SPEC,
    Kind.CLAIM,
    Kind.NODE_FACTS,
    Kind.FENCE,
    Kind.HALT,
    Kind.GROUP,
    Kind.HINT,
    Kind.PENALTY,
    Kind.NODE_ALIVE,
    Kind.VM_STATUS,
    Kind.VOLUME,
    Kind.REFUSAL,
    Kind.SILENCED,
    Kind.BREAK_LOCK,
    Kind.MAINTENANCE,
    Kind.HOST_RETURN,
    Kind.CLUSTER_SHUTDOWN,
)
"""Everything but events, history and tickets, which grow and are read on demand."""


class Informer:
    """Lists once, then follows; lists again when the watch breaks and every full look."""

    def __init__(
        self, store: Store, keys: Keys, etcd_history: EtcdHistory, changed: Callable[[set[ParsedKey]], None]
    ) -> None:
        self.world = ClusterState(keys)
        self.listed = asyncio.Event()
        """Set once everything has been listed since this process started."""
        self.looked = asyncio.Event()
        """Set once etcd has answered, whether it is believed or not."""
        self.etcd_history = etcd_history
        self._store = store
        self._keys = keys
        self._changed = changed
        self._waiters: list[tuple[int, int, asyncio.Future[None]]] = []
        self._count = 0
        self._stream: asyncio.Timeout | None = None
        self._unlisted = 0
        """Full looks since everything was listed."""

    async def run(self) -> None:
        """Follow the store for ever."""
        backoff_s = 0.1
        while True:
            try:
                await self.look()
                backoff_s = 0.1
                try:
                    await self._follow()
                finally:
                    self._stream = None
            except TimeoutError:
                log.info("informer_resync", revision=self.world.revision)
            except Compacted:
                log.info("watch_compacted", revision=self.world.revision)
            except (Unavailable, Denied) as error:
                if not self.etcd_untrusted:  # that was said, loudly
                    log.warning("etcd_unreachable", error=str(error), retry_in_s=backoff_s)
                await asyncio.sleep(backoff_s)
                backoff_s = min(5.0, backoff_s * 2)

    @property
    def etcd_untrusted(self) -> bool:
        """This etcd is not the one that this node has seen. Nothing may be done."""
        return bool(self.etcd_history.why)

    async def _follow(self) -> None:
        """Fold in what the watch delivers; raises TimeoutError when it has to begin again."""
        async with asyncio.timeout(None) as stream:
            self._stream = stream
            history = self.etcd_history.history
            world = self.world
            async for batch in self._store.watch(self._keys.prefix(), world.revision, world.on_demand):
                ours = batch.cluster_id in (0, self.etcd_history.known.cluster_id)
                if not ours or self.etcd_history.history != history:
                    return  # the next list says what that means
                self.etcd_history.note_revision(batch.revision)
                changed = self.world.apply(batch)
                self._wake()
                if changed:
                    self._changed(changed)
                if self.world.missed_key:
                    log.warning("watch_lost_events", key=self.world.missed_key)
                    return

    def _begin_again(self) -> None:
        """The watch is of a history that is not believed any more."""
        if self._stream is not None and not self._stream.expired():
            self._stream.reschedule(asyncio.get_running_loop().time())

    def restart(self) -> None:
        """Another history is believed from now on."""
        self.world.restart()
        self._begin_again()

    async def look_if_due(self) -> None:
        """This node's share of the full looks: list everything, but in a large cluster not every time.

        A pace that somebody set is kept as it is. A node that does not believe this etcd asks every time.
        """
        world, config = self.world, self.world.config
        self._unlisted += 1
        due = 1
        if config.full_look_s == ClusterConfig().full_look_s and not self.etcd_untrusted:
            due = full_looks_per_list(config.full_look_s, world.count(Kind.NODE_ALIVE), world.count())
        if self._unlisted >= due or not await self._same_etcd():
            await self.look()

    async def _same_etcd(self) -> bool:
        """Whether nothing speaks against it that is the etcd of before; one small key is asked for.

        Safety: so a restored one is noticed as soon as if everything were listed, but for what only a list
        shows. It is a doubt, no verdict: that is the list's.
        """
        known = self.etcd_history.known
        said = await self._store.list(self._keys.generation())
        older = said.revision < known.revision or said.term < known.term or self.world.younger(said)
        return said.cluster_id == known.cluster_id and not older

    async def look(self) -> None:
        """List everything again: the net under the watch."""
        floor = self.etcd_history.floor
        snapshot = await self._store.list(*self._keys.prefixes(LISTED))
        self.looked.set()
        if (
            snapshot.term < self.etcd_history.known.term
            and snapshot.cluster_id == self.etcd_history.known.cluster_id
        ):
            snapshot = await self._of_its_term(snapshot)
        # Safety: claims that a restored etcd has forgotten must not look like claims that were released.
        if not self.etcd_history.judge(snapshot, floor):
            self._begin_again()
            raise Unavailable(f"this etcd is rejected: {self.etcd_history.doubt}")
        self._unlisted = 0
        if snapshot.revision < self.world.revision:
            return  # the watch ran ahead of this list: what it delivered is newer
        if self.world.revision and (key := self.world.younger(snapshot)):
            # Safety: restored under its old id, and written to since: no number is below what was seen.
            self.etcd_history.forked(key)
            self._begin_again()
            raise Unavailable(f"this etcd is rejected: {self.etcd_history.why}")
        changed = self.world.load(snapshot)
        self.listed.set()
        self._wake()
        if changed:
            self._changed(changed)

    async def _of_its_term(self, snapshot: Snapshot) -> Snapshot:
        """The listing with the term that its etcd really has: that of a write.

        A member that was caught up by a snapshot says the term of before until it has applied something.
        An older term alone proves nothing; one that a write was given is of another history.
        """
        nothing = Transaction(name="probe", guards=(), effects=(Delete(self._keys.nothing()),))
        outcome = await self._store.commit(nothing)
        log.info("etcd_term_probed", said=snapshot.term, known=self.etcd_history.known.term, true=outcome.term)
        return replace(snapshot, term=max(snapshot.term, outcome.term))

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
