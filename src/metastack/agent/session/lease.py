"""The lease of this node's session: renewed at a quarter of its TTL.

Owns: which lease it is, and its renewals. Refuses: what hangs on it, and what follows when it is lost: the
session's business.
Rule: a lease that takes another's place, or was left, is noticed at once: it may be due much earlier.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from ...core.transaction import Lease
from ...ports import LeaseGone, Store, Unavailable
from ..waiting import is_set_within

log = structlog.get_logger()


class LeaseRenewal:
    """Keeps one lease alive, or none."""

    def __init__(self, store: Store, lose: Callable[[str], None]) -> None:
        """``lose`` is told why the lease may be gone, once for each."""
        self._store, self._lose = store, lose
        self._lease: Lease | None = None
        self._other = asyncio.Event()
        """It is another lease than it was, or none."""

    @property
    def lease(self) -> Lease | None:
        """With the deadline that its last renewal gave it."""
        return self._lease

    def hold(self, lease: Lease | None) -> None:
        """Renew that one from now on; None: none."""
        self._lease = lease
        self._other.set()

    async def run(self) -> None:
        """Renew for ever. A lease that may be gone is left alone from then on."""
        while True:
            self._other.clear()
            lease = self._lease
            if lease is None or (why := await self._renew(lease)):
                if lease is not None:
                    self._lose(why)
                await self._other.wait()

    async def _renew(self, lease: Lease) -> str:
        """Wait until it is due and renew it once. Says why it may be gone; empty: it is not, or not held."""
        loop = asyncio.get_running_loop()
        wait_s = min(lease.ttl_s / 4, max(0.0, lease.deadline_s - loop.time()))
        if await is_set_within(self._other, wait_s) or self._lease is not lease:
            return ""
        if loop.time() >= lease.deadline_s:
            return "the lease ran out before it could be renewed"
        try:
            async with asyncio.timeout_at(lease.deadline_s):
                renewed = await self._store.renew(lease)
        except LeaseGone:
            return "etcd says that the lease is gone" if self._lease is lease else ""
        except (Unavailable, TimeoutError) as error:
            log.info("lease_renewal_failed", error=str(error), left_s=round(lease.deadline_s - loop.time(), 2))
        else:
            if self._lease is lease:  # it may have moved to another one meanwhile
                self._lease = renewed
        return ""
