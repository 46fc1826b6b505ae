"""A store whose writer keeps to the cluster's record level.

Owns: the one seam between a writer and the versions that it may write.
Refuses: deciding the level; whoever reads the settings says it, at every commit.
Rule: everything but the versions of what is put is the inner store's.
"""

from __future__ import annotations

from collections.abc import Callable

from ..core.state.keys import Keys
from ..core.state.record_versions import written
from ..core.transaction import Outcome, Transaction
from .store import Store
from .wrapped_store import WrappedStore


class Levelled(WrappedStore):
    """The Store port, writing records of the level that ``level`` says right now."""

    def __init__(self, inner: Store, keys: Keys, level: Callable[[], int]) -> None:
        super().__init__(inner)
        self._keys, self._level = keys, level

    async def commit(self, change: Transaction) -> Outcome:
        return await self._inner.commit(written(change, self._keys, self._level()))
