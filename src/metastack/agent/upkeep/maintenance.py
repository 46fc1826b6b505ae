"""The end of a maintenance, where etcd's lease alone would end it too late.

Owns: since when this node has seen it, by its monotonic clock. Refuses: ending it early.
Rule: a new leader of etcd counts every lease from the beginning. So a node that has watched a maintenance for
its whole time, and a little more, ends it. No clock that a person can set is asked.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from ...core.protocol.maintenance import end
from ..context import AgentContext

log = structlog.get_logger()

LATE_S: Final = 5.0
"""etcd ends it by itself about when its time is over: the nodes come after that."""


class MaintenanceEnd:
    """Watches the one that is on."""

    def __init__(self, node: AgentContext) -> None:
        self._node = node
        self._seen = (0, 0.0)
        """Revision of its record, and the loop time when this node saw it first."""

    def due_s(self) -> float | None:
        """Loop time at which it is over; None when none is on, or nobody can read for how long."""
        found = self._node.world.maintenance()
        if found is None or found.record is None or not found.record.ttl_s:
            return None
        if self._seen[0] != found.mod:
            self._seen = (found.mod, asyncio.get_running_loop().time())
        return self._seen[1] + found.record.ttl_s + LATE_S

    async def look(self) -> float:
        """End it when its time is over; returns seconds until then (0: on change)."""
        node, found, due_s = self._node, self._node.world.maintenance(), self.due_s()
        if found is None or due_s is None:
            return 0.0
        if (wait_s := due_s - asyncio.get_running_loop().time()) > 0:
            return wait_s
        if node.informer.etcd_untrusted:
            return LATE_S
        if await node.commit(end(node.keys, found)):
            log.info("maintenance_ended", node=node.name, ttl_s=found.ok.ttl_s)
        return 0.0
