"""A store around another: every call goes on as it is. What wraps one overrides only what it changes."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from ..core.transaction import Batch, Entry, Lease, Outcome, Snapshot, Transaction
from .store import Store


class WrappedStore:
    """The Store port, by another store."""

    def __init__(self, inner: Store) -> None:
        self._inner = inner

    async def get(self, key: str) -> Entry | None:
        return await self._inner.get(key)

    async def list(self, *prefixes: str) -> Snapshot:
        return await self._inner.list(*prefixes)

    async def commit(self, change: Transaction) -> Outcome:
        return await self._inner.commit(change)

    def watch(
        self, prefix: str, after_revision: int, without: tuple[str, ...] = (), until: str = ""
    ) -> AsyncGenerator[Batch, None]:
        return self._inner.watch(prefix, after_revision, without, until)

    async def grant(self, ttl_s: int) -> Lease:
        return await self._inner.grant(ttl_s)

    async def renew(self, lease: Lease) -> Lease:
        return await self._inner.renew(lease)

    async def left_s(self, lease_id: int) -> float:
        return await self._inner.left_s(lease_id)

    async def revoke(self, lease: Lease) -> None:
        await self._inner.revoke(lease)

    async def close(self) -> None:
        await self._inner.close()
