"""Judges that an agent writes only what its etcd roles allow.

Rule: a transaction outside the roles is a violation, and is applied: what follows is another judge's matter.
"""

from __future__ import annotations

from collections.abc import Callable

from ....core.etcd_roles import Rights
from ....core.transaction import Outcome, Transaction
from ....ports import Store
from ....ports.wrapped_store import WrappedStore


class RightsJudge(WrappedStore):
    """The Store port of one agent, with its rights."""

    def __init__(self, inner: Store, rights: Rights, violation: Callable[[str, str], None], node: str) -> None:
        super().__init__(inner)
        self._rights, self._violation, self._node = rights, violation, node

    async def commit(self, change: Transaction) -> Outcome:
        for what in self._rights.outside(change):
            self._violation("rights", f"{self._node}: {change.name} would {what}")
        return await self._inner.commit(change)
