"""The in-memory twin of the etcd store: a client of a :class:`MemoryCluster`, with a network that can fail.

Owns: the way between one client and the cluster. Refuses: semantics; those are the cluster's.
Rule: every request crosses a suspension point before and after it is applied, so that whatever can happen
between a real client and etcd can happen here: a lost request, a lost reply, a late arrival.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from typing import TypeVar

from metastack.core.transaction import Batch, Entry, Lease, Outcome, Snapshot, Transaction
from metastack.ports import Broken, Compacted, LeaseGone, Unavailable, UnknownOutcome

from ..etcd.limits import named
from .cluster import MemoryCluster

T = TypeVar("T")


class MemoryStore:
    """The ``Store`` port on a cluster in memory. The methods below ``faults`` are for tests and simulation."""

    def __init__(
        self,
        cluster: MemoryCluster,
        *,
        total_timeout_s: float = 5.0,
        latency_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._cluster = cluster
        self._total_timeout_s = total_timeout_s
        self._latency_s = latency_s
        """Called twice a request: the way there and the way back."""
        self._cut = False
        self._cut_back = False
        self._deaf = False
        self._lose_events = False
        self.watch_lag_s: Callable[[], float] = lambda: 0.0
        """How late watch events come, seconds, besides the latency."""
        self._lose_reply = False
        self._lose_request = False
        self._arrive_late_s: float | None = None
        self._closed = False

    async def get(self, key: str) -> Entry | None:
        if not key:
            raise Broken("an empty key")
        return (await self._ask(f"get {key}", lambda: self._cluster.get(key)))[0]

    async def list(self, *prefixes: str) -> Snapshot:
        if not prefixes or not all(prefixes):
            raise Broken("list of no prefix, or of an empty one")

        def read() -> Snapshot:
            entries = tuple(entry for prefix in prefixes for entry in self._cluster.under(prefix))
            return Snapshot(self._cluster.revision, entries, self._cluster.id, self._cluster.said_term)

        return (await self._ask(f"list {named(prefixes)}", read))[0]

    async def commit(self, change: Transaction) -> Outcome:
        what = f"commit {change.name}"
        if self._arrive_late_s is not None:
            delay_s, self._arrive_late_s = self._arrive_late_s, None
            asyncio.get_running_loop().call_later(delay_s, self._arrive, change)
            raise UnknownOutcome(f"{what}: still on its way")
        if self._lose_request:
            self._lose_request = False
            await asyncio.sleep(self._total_timeout_s)
            raise UnknownOutcome(f"{what}: the request was lost")
        return (await self._ask(what, lambda: self._cluster.apply(change), twice=False))[0]

    async def watch(
        self, prefix: str, after_revision: int, without: tuple[str, ...] = (), until: str = ""
    ) -> AsyncGenerator[Batch, None]:
        last, era = after_revision, self._cluster.era
        id_ = self._cluster.id if self._reaches() else 0
        while not self._closed:
            if self._hears() and self._cluster.era != era:
                # The stream broke: a new one finds another cluster, or one that is behind.
                if id_ not in (0, self._cluster.id) or self._cluster.revision < last:
                    raise Compacted(f"watch {prefix}: this is another cluster, or it went back")
                era = self._cluster.era
            id_ = id_ or (self._cluster.id if self._hears() else 0)
            events = self._cluster.events_after(last, prefix, until) if self._hears() else ()
            if not events:
                await self._cluster.changed()
                continue
            await asyncio.sleep(self._latency_s() + self.watch_lag_s())
            if self._hears():
                last = events[-1].revision
                if self._lose_events:
                    self._lose_events = False
                    continue
                yield Batch(last, tuple([e for e in events if not e.key.startswith(without)]), id_)
        raise Unavailable(f"watch {prefix}: the store is closed")

    async def grant(self, ttl_s: int) -> Lease:
        lease, sent_s = await self._ask("grant a lease", lambda: self._cluster.grant(ttl_s))
        return Lease(lease, ttl_s, sent_s + ttl_s)

    async def renew(self, lease: Lease) -> Lease:
        what = f"renew lease {lease.id:x}"
        alive, sent_s = await self._ask(what, lambda: self._cluster.renew(lease.id))
        if not alive:
            raise LeaseGone(f"lease {lease.id:x} no longer exists")
        return Lease(lease.id, lease.ttl_s, sent_s + lease.ttl_s)

    async def left_s(self, lease_id: int) -> float:
        what = f"time left of lease {lease_id:x}"
        return (await self._ask(what, lambda: self._cluster.left_s(lease_id)))[0]

    async def revoke(self, lease: Lease) -> None:
        await self._ask(f"revoke lease {lease.id:x}", lambda: self._cluster.revoke(lease.id))

    async def close(self) -> None:
        self._closed = True
        self._cluster.wake()

    # --- faults

    def partition(self) -> None:
        """Nothing passes between this client and the cluster until :meth:`heal`."""
        self._cut = True

    def partition_back(self) -> None:
        """Requests arrive, nothing comes back until :meth:`heal`."""
        self._cut_back = True

    def heal(self) -> None:
        """End a partition and deafness."""
        self._cut = self._cut_back = self._deaf = False
        self._cluster.wake()

    def deafen(self) -> None:
        """Requests work, watch events do not come until :meth:`heal` (then all of them do)."""
        self._deaf = True

    def lose_next_events(self) -> None:
        """The next batch of watch events is never delivered, and nothing says so."""
        self._lose_events = True

    def lose_next_reply(self) -> None:
        """The next request is applied and its answer is lost."""
        self._lose_reply = True

    def lose_next_commit(self) -> None:
        """The next commit never arrives; the caller cannot know."""
        self._lose_request = True

    def delay_next_commit(self, delay_s: float) -> None:
        """The next commit arrives this much later, long after its caller was told "unknown"."""
        self._arrive_late_s = delay_s

    # --- inside

    def _reaches(self) -> bool:
        return not (self._cut or self._cluster.down or self._closed)

    def _answered(self) -> bool:
        return self._reaches() and not self._cut_back

    def _hears(self) -> bool:
        return self._answered() and not self._deaf

    async def _ask(self, what: str, run: Callable[[], T], *, twice: bool = True) -> tuple[T, float]:
        """Run one request on the cluster; its result and the loop time before it was sent."""
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + self._total_timeout_s
        while not self._closed:
            sent_s = loop.time()
            await asyncio.sleep(self._latency_s())
            if await self._arrived(deadline_s, self._reaches):
                result = run()
                await asyncio.sleep(self._latency_s())
                if not self._lose_reply and await self._arrived(deadline_s, self._answered):
                    return result, sent_s
                self._lose_reply = False
                if not twice:
                    raise UnknownOutcome(f"{what}: the answer was lost")
            elif not twice and not self._cluster.down:
                # A real client whose connection stood cannot tell whether the request went through.
                raise UnknownOutcome(f"{what}: no answer")
            if loop.time() >= deadline_s:
                raise Unavailable(f"{what}: the store is unreachable after {self._total_timeout_s:g} s")
        raise Unavailable(f"{what}: the store is closed")

    async def _arrived(self, deadline_s: float, passes: Callable[[], bool]) -> bool:
        """Wait until a message passes; False when the deadline comes first."""
        try:
            async with asyncio.timeout_at(deadline_s):
                while not passes() and not self._closed:
                    await self._cluster.changed()
        except TimeoutError:
            return False
        return not self._closed

    def _arrive(self, change: Transaction) -> None:
        try:
            self._cluster.apply(change)
        except (LeaseGone, Broken, Unavailable):
            return  # Nobody waits for the answer.
