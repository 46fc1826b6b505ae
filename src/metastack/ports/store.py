"""The store port: etcd as the platform uses it."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Protocol

from ..core.transaction import Batch, Entry, Lease, Outcome, Snapshot, Transaction


class Store(Protocol):
    """etcd as the platform uses it. Every call has its own deadlines and raises the families above.

    The in-memory twin passes the same contract suite as the real one.
    """

    async def get(self, key: str) -> Entry | None:
        """One key, linearizable."""
        ...

    async def list(self, *prefixes: str) -> Snapshot:
        """Every entry under these prefixes at one revision, paged, in the order of the prefixes, then keys."""
        ...

    async def commit(self, change: Transaction) -> Outcome:
        """Run one transaction: Committed or Lost; raises UnknownOutcome when it cannot tell.

        Never retried here after it may have been applied. ``LeaseGone`` when the change's lease is gone.
        """
        ...

    def watch(
        self, prefix: str, after_revision: int, without: tuple[str, ...] = (), until: str = ""
    ) -> AsyncGenerator[Batch, None]:
        """Events under a prefix with revision > ``after_revision``, for ever, each exactly once, in order.

        ``without``: events of keys that begin so are left out; the batch's revision counts them.
        ``until``: only keys below it are watched, so that no right to the others is needed.

        Reconnects by itself (resuming after the last delivered revision); raises ``Compacted`` when that
        revision is gone. Empty batches are progress notes. Closing the iterator closes the stream.
        """
        ...

    async def grant(self, ttl_s: int) -> Lease:
        """A new lease."""
        ...

    async def renew(self, lease: Lease) -> Lease:
        """Renew once; raises LeaseGone."""
        ...

    async def left_s(self, lease_id: int) -> float:
        """How long a lease lives if nobody renews it, seconds, rounded down or less; 0 for one that is gone.

        Anybody's lease. A new leader starts every lease at its full life, also that of a dead owner.
        """
        ...

    async def revoke(self, lease: Lease) -> None:
        """End a lease and delete its keys; a lease that is gone already is no error."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...
