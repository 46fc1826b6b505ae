"""The end of what is leased for a time, where etcd's lease alone would end it too late.

Owns: since when this node has seen each, by its monotonic clock. Refuses: ending one early.
Rule: a new leader of etcd counts every lease from the beginning. So a node that has watched a maintenance, a
cluster's shutdown or the absence of a host for its whole time, and a little more, ends it. No clock that a
person can set is asked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

import structlog

from ...core.protocol import cluster_shutdown, host_return, maintenance
from ...core.transaction import Transaction
from ..context import AgentContext

log = structlog.get_logger()

LATE_S: Final = 5.0
"""etcd ends it by itself about when its time is over: the nodes come after that."""


class LeasedEnds:
    """Watches those that are on."""

    def __init__(self, node: AgentContext) -> None:
        self._node = node
        self._seen: dict[str, tuple[int, float]] = {}
        """By what it is: revision of its record, and the loop time when this node saw it first."""

    def _on(self) -> Iterator[tuple[str, int, int, Transaction]]:
        """What is on: its name, revision and time in seconds, and what ends it."""
        world, keys = self._node.world, self._node.keys
        if (pause := world.maintenance()) is not None and pause.record is not None:
            yield "maintenance", pause.mod, pause.record.ttl_s, maintenance.end(keys, pause)
        if (down := world.cluster_shutdown()) is not None and down.record is not None:
            yield "shutdown", down.mod, down.record.ttl_s, cluster_shutdown.end(keys, down)
        for name in world.nodes():
            if (left := world.host_return(name)) is not None and left.record is not None:
                yield f"return of {name}", left.mod, left.record.ttl_s, host_return.end(keys, left, name)

    async def look(self) -> float:
        """End those whose time is over; returns seconds until the next is due (0: on change)."""
        now_s, due_s, seen = asyncio.get_running_loop().time(), list[float](), self._seen
        self._seen = {}
        for what, mod, ttl_s, end in self._on() if not self._node.informer.etcd_untrusted else ():
            at = seen.get(what, (0, 0.0))
            self._seen[what] = at = at if at[0] == mod else (mod, now_s)
            if not ttl_s:
                continue  # of another release: nobody can read for how long
            if (left_s := at[1] + ttl_s + LATE_S - now_s) > 0:
                due_s.append(left_s)
            elif await self._node.commit(end):
                log.info("pause_ended", node=self._node.name, what=what, ttl_s=ttl_s)
        return min(due_s, default=LATE_S if self._node.informer.etcd_untrusted else 0.0)
