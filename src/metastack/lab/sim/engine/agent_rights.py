"""Judges that an agent reads and writes only what its etcd roles allow.

Rule: a transaction outside the roles is a violation, and is applied: what follows is another judge's matter.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable

from ....core.etcd_roles import Rights
from ....core.transaction import Batch, Entry, Outcome, Snapshot, Transaction
from ....ports import Store
from ....ports.wrapped_store import WrappedStore


class RightsJudge(WrappedStore):
    """The Store port of one agent, with its rights."""

    def __init__(self, inner: Store, rights: Rights, violation: Callable[[str, str], None], node: str) -> None:
        super().__init__(inner)
        self._rights, self._violation, self._node = rights, violation, node

    def _judge(self, allowed: bool, what: str) -> None:
        if not allowed:
            self._violation("rights", f"{self._node}: would {what}")

    async def get(self, key: str) -> Entry | None:
        self._judge(self._rights.reads(key), f"read {key}")
        return await self._inner.get(key)

    async def list(self, *prefixes: str) -> Snapshot:
        for prefix in prefixes:
            self._judge(self._rights.lists(prefix), f"list {prefix}")
        return await self._inner.list(*prefixes)

    def watch(
        self, prefix: str, after_revision: int, without: tuple[str, ...] = (), until: str = ""
    ) -> AsyncGenerator[Batch, None]:
        self._judge(self._rights.lists(prefix, until), f"watch {prefix}")
        return self._inner.watch(prefix, after_revision, without, until)

    async def commit(self, change: Transaction) -> Outcome:
        for what in self._rights.outside(change):
            self._judge(False, f"{what} in {change.name}")
        return await self._inner.commit(change)
