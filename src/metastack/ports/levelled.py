"""A store whose writer keeps to the cluster's record level.

Owns: the one seam between a writer and the versions that it may write.
Refuses: deciding the level; whoever reads the settings says it, at every commit.
Rule: everything but the versions of what is put is the inner store's.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from ..core.change import Batch, Change, Entry, Lease, Outcome, Snapshot
from ..core.keys import Keys
from ..core.versions import written
from .store import Store


class Levelled:
    """The Store port, writing records of the level that ``level`` says right now."""

    def __init__(self, inner: Store, keys: Keys, level: Callable[[], int]) -> None:
        self._inner, self._keys, self._level = inner, keys, level

    async def get(self, key: str) -> Entry | None:
        return await self._inner.get(key)

    async def list(self, *prefixes: str) -> Snapshot:
        return await self._inner.list(*prefixes)

    async def commit(self, change: Change) -> Outcome:
        return await self._inner.commit(written(change, self._keys, self._level()))

    def watch(
        self, prefix: str, after_revision: int, without: tuple[str, ...] = ()
    ) -> AsyncGenerator[Batch, None]:
        return self._inner.watch(prefix, after_revision, without)

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
