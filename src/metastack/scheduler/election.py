"""The election: which of several schedulers leads.

Owns: the lease, the leader's key under it, and the knowledge of when it may be lost.
Refuses: guessing. An answer that did not come ends the attempt, and the lease that it may have used.
Rule: a scheduler that cannot prove any more that its lease lives is no leader. It could not write either
(core/protocol/leader_terms).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing, suppress
from typing import Final

import structlog

from ..core.model import Leader
from ..core.protocol.leader_terms import LeaderTerm, stand
from ..core.state.keys import Keys
from ..core.transaction import Committed, Lease
from ..ports import Compacted, LeaseGone, Refused, Store, Unavailable

log = structlog.get_logger()

LOOK_S: Final = 30.0
"""A follower looks for itself after that: the net under a watch that lost the news."""
_RETRY_S: Final = 0.2
_MOST_RETRY_S: Final = 5.0


class Election:
    """One scheduler's part in it."""

    def __init__(self, store: Store, keys: Keys, name: str, ttl_s: int, stamp: Callable[[], str]) -> None:
        self._store, self._keys, self._name = store, keys, name
        self._ttl_s, self._stamp = ttl_s, stamp
        self._lease: Lease | None = None

    async def win(self) -> LeaderTerm:
        """Stand until elected."""
        backoff_s = _RETRY_S
        while True:
            try:
                self._lease = await self._store.grant(self._ttl_s)
                leader = Leader(name=self._name, since=self._stamp())
                outcome = await self._store.commit(stand(self._keys, leader, self._lease.id))
                if isinstance(outcome, Committed):
                    return LeaderTerm(revision=outcome.revision, lease=self._lease.id)
                await self.resign()
                await self._vacancy(outcome.revision)
                backoff_s = _RETRY_S
            except (Unavailable, Refused) as error:
                log.warning("election_retry", error=str(error), retry_in_s=backoff_s)
                # The key may be there, under this lease: with the lease it goes, and nobody waits for it.
                await self.resign()
                await asyncio.sleep(backoff_s)
                backoff_s = min(_MOST_RETRY_S, backoff_s * 2)

    async def hold(self) -> str:
        """Renew; returns why the term is over."""
        loop, lease = asyncio.get_running_loop(), self._lease
        assert lease is not None, "hold() comes after win()"
        try:
            async with asyncio.timeout_at(lease.deadline_s) as deadline:
                while True:
                    await asyncio.sleep(min(self._ttl_s / 4, max(0.0, lease.deadline_s - loop.time())))
                    try:
                        lease = await self._store.renew(lease)
                        deadline.reschedule(lease.deadline_s)
                    except Unavailable as error:
                        log.info("lease_renewal_failed", error=str(error))
                        await asyncio.sleep(_RETRY_S)
        except TimeoutError:
            return "the lease could not be renewed in time"
        except LeaseGone:
            return "the lease is gone"

    async def resign(self) -> None:
        """End the lease, and with it the leader's key and every hint; as well as etcd can be reached."""
        lease, self._lease = self._lease, None
        if lease is not None:
            with suppress(Unavailable, Refused):
                await self._store.revoke(lease)

    async def _vacancy(self, after_revision: int) -> None:
        """Until the leader's key is gone, or it is time to look."""
        key = self._keys.leader()
        with suppress(TimeoutError, Compacted):
            async with asyncio.timeout(LOOK_S), aclosing(self._store.watch(key, after_revision)) as batches:
                async for batch in batches:
                    if any(event.key == key and event.entry is None for event in batch.events):
                        return
