"""What a person announces for a while: a record under a lease of its own, which nobody renews.

Owns: the life of that lease; the record is the caller's. Refuses: clocks: etcd alone counts the time.
Rule: a lease is given back if its record was not written, and if its record was replaced or withdrawn.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from metastack.core.state.cluster_state import Seen
from metastack.core.transaction import Lease

from ..problem import Problem
from ..request import Cluster, Plan, Request, T, Unchanged, commit

Replacing = tuple[Seen[Any] | None, Plan[T]]
"""The record that is there, and the plan that replaces or removes it."""


async def announce(
    cluster: Cluster, request: Request, ttl_s: int, look: Callable[[int], Awaitable[Replacing[None]]]
) -> None:
    """Write the record; ``look`` is given the id of its lease. Raises Problem."""
    lease = await cluster.store.grant(ttl_s)
    before = 0

    async def planned() -> Plan[None]:
        nonlocal before
        found, plan = await look(lease.id)
        before = found.lease if found is not None else 0
        return plan

    try:
        await commit(cluster, request, planned)
    except Problem:
        await cluster.store.revoke(lease)
        raise
    await _give_back(cluster, before)


async def withdraw(
    cluster: Cluster, request: Request, look: Callable[[], Awaitable[Replacing[bool] | None]]
) -> bool:
    """Remove the record before its time; false if there is none. Raises Problem."""
    before = 0

    async def planned() -> Plan[bool] | Unchanged[bool]:
        nonlocal before
        if (replacing := await look()) is None:
            return Unchanged(False)
        found, plan = replacing
        before = found.lease if found is not None else 0
        return plan

    gone = await commit(cluster, request, planned)
    await _give_back(cluster, before)
    return gone


async def _give_back(cluster: Cluster, ident: int) -> None:
    """Nothing hangs on it any more: it would end by itself, days later."""
    if ident:
        await cluster.store.revoke(Lease(id=ident, ttl_s=0, deadline_s=0.0))
