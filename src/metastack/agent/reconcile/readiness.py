"""Readiness: whether a guest answers on its spec's ready port, for VMs that start after it.

Owns: the probes, bounded in number and in time, and what they found. Refuses: holding up anything else by them.
Rule: a guest that has answered once in its run is ready for the rest of it: this is a gate for starts, no
monitoring.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import structlog

from ...core.model import Phase, VmId, VmSpec
from ...ports import Refused, Unavailable
from ..context import AgentContext
from .workqueue import WorkQueue

log = structlog.get_logger()

PROBES_AT_ONCE: Final = 4
"""Probes of one node at one time."""
PROBE_ANSWER_S: Final = 1.0
PROBE_AGAIN_S: Final = 1.0
PROBE_AGAIN_MAX_S: Final = 5.0

Boot = tuple[int, int, int]
"""Epoch, run and port: what an answer is about."""


class Readiness:
    """Knows which guests of this node have answered."""

    def __init__(self, node: AgentContext, changed: Callable[[VmId], None]) -> None:
        self._node, self._changed = node, changed
        self._queue: WorkQueue[VmId] = WorkQueue()
        self._answered: dict[VmId, Boot] = {}
        self._tries: dict[VmId, int] = {}

    def ready(self, spec: VmSpec, epoch: int, run: int) -> bool:
        """Whether that boot of it has answered; if not, somebody asks from now on."""
        port, vm = spec.ha.ready_port, spec.id
        if not port or self._answered.get(vm) == (epoch, run, port):
            return True
        found = self._node.world.status(vm)
        before = found.record if found is not None else None
        known = before is not None and before.ready and before.phase is Phase.RUNNING
        if known and before is not None and (before.epoch, before.run) == (epoch, run):
            self._answered[vm] = (epoch, run, port)  # to an agent before this one
            return True
        self._queue.add(vm)
        return False

    def forget(self, vm: VmId) -> None:
        """It is not this node's any more."""
        self._answered.pop(vm, None)
        self._tries.pop(vm, None)

    async def work(self) -> None:
        """One of the few who ask."""
        while True:
            vm = await self._queue.get()
            again_s = 0.0
            try:
                again_s = await self._ask(vm)
            except (Unavailable, Refused) as error:
                log.info("readiness_probe_failed", vm=str(vm), error=str(error))
                again_s = PROBE_AGAIN_MAX_S
            finally:
                self._queue.done(vm)
            if again_s > 0:
                self._queue.add_after(vm, again_s)

    async def _ask(self, vm: VmId) -> float:
        world = self._node.world
        found, status, claim = world.spec(vm), world.status(vm), world.claim(vm)
        spec = found.record if found is not None else None
        mine = claim is not None and claim.record is not None and claim.record.node == self._node.name
        if spec is None or not spec.ha.ready_port or not mine:
            self.forget(vm)
            return 0.0
        if status is None or status.record is None or status.record.phase is not Phase.RUNNING:
            return 0.0  # asked for again when it is published as running
        boot = (status.record.epoch, status.record.run, spec.ha.ready_port)
        if self._answered.get(vm) == boot:
            return 0.0
        for address in dict.fromkeys(a for nic in spec.nics for a in self._node.network.addresses(nic.mac)):
            if await self._node.network.answers(address, spec.ha.ready_port, PROBE_ANSWER_S):
                self._answered[vm] = boot
                self._tries.pop(vm, None)
                log.info("guest_ready", vm=str(vm), node=self._node.name, port=spec.ha.ready_port)
                self._changed(vm)
                return 0.0
        tries = self._tries[vm] = self._tries.get(vm, 0) + 1
        return min(PROBE_AGAIN_MAX_S, PROBE_AGAIN_S * tries)

    def close(self) -> None:
        """Cancel every appointment."""
        self._queue.close()
