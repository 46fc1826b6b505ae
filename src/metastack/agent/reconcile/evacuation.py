"""Evacuation: this node releases VMs that should run elsewhere, because of a drain or a move.

Owns: which of them goes now. Refuses: choosing where to, and stopping a VM that no other node would
take: it runs on here.
Rule: one at a time: the next is stopped only when the last runs elsewhere. So a drain never has more than one
VM down, and a cluster that cannot take them loses one at most.

Which should leave, and whether anybody would take them, is core/placement's answer (``departures``), the same
that ``node drain --wait`` explains. Nothing of this is durable: an agent that restarts begins with the VMs that
are still here. A guest that ends while it should leave is started elsewhere, also if it switched itself off:
nobody can tell that from an agent that asked it to and died.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import structlog

from ...core.domains import Domain, DomainState
from ...core.model import Phase, VmId
from ...core.placement import departures, leaving
from ...core.protocol.maintenance import paused
from ...core.state.cluster_state import wants_on
from ..context import AgentContext

log = structlog.get_logger()

LOOK_S: Final = 0.5
"""Between two looks at the one that is on its way."""
LOOK_AGAIN_S: Final = 5.0
"""Until those that nobody would take are thought about again."""
PATIENCE_S: Final = 120.0
"""How long the next waits for one that is released and does not run anywhere."""


class Evacuation:
    """One VM on its way out, at most."""

    def __init__(self, node: AgentContext, changed: Callable[[VmId], None]) -> None:
        self._node, self._changed = node, changed
        self._going: VmId | None = None
        self._released_s: float | None = None

    def why(self, vm: VmId, domains: tuple[Domain, ...]) -> str:
        """Why the VM is to be stopped and released now; empty: it stays."""
        node = self._node
        found = node.world.spec(vm)
        spec = found.record if found is not None else None
        if spec is None:
            return ""
        should = leaving(node.world, node.name, spec)
        if vm == self._going and domains:
            # Once it was asked to shut down there is no way back: its guest would be off, and stay so.
            down = all(domain.state is DomainState.DEFINED for domain in domains)
            asked = down or node.memory.of(vm).stop_from_s is not None
            return should or ("its stop was asked for already" if asked else "")
        if should and not paused(node.world) and all(domain.state is DomainState.DEFINED for domain in domains):
            # It does not run: nothing has to be stopped for it, if only somebody would take it.
            there = [departure for departure in departures(node.engine, node.name) if departure.vm == vm]
            if there and there[0].to:
                return should
        if vm == self._going:
            self._going = None  # nobody would take it any more, or it need not go: it boots here
        return ""

    def look(self) -> float:
        """Let the next one go when it is time; returns seconds until the next look (0: on change)."""
        node = self._node
        if not node.session.ready:
            return 0.0
        if self._going is not None and not self._gone(self._going):
            return LOOK_S
        self._going = self._released_s = None
        if paused(node.world) or not self._anybody():
            return 0.0
        for departure in departures(node.engine, node.name):
            if departure.to:
                self._going = departure.vm
                log.info("evacuating", vm=str(departure.vm), node=node.name, why=departure.why, to=departure.to)
                self._changed(departure.vm)
                return LOOK_S
        return LOOK_AGAIN_S

    def _anybody(self) -> bool:
        node = self._node
        found = (node.world.spec(vm) for vm in node.engine.on(node.name))
        specs = (seen.record for seen in found if seen is not None)
        return any(spec is not None and leaving(node.world, node.name, spec) for spec in specs)

    def _gone(self, vm: VmId) -> bool:
        """It runs elsewhere, or there is nothing to wait for."""
        node, world = self._node, self._node.world
        now_s = asyncio.get_running_loop().time()
        claim, spec = world.claim(vm), world.spec(vm)
        if claim is not None and claim.record is not None and claim.record.node == node.name:
            if self._released_s is not None:
                return True  # it is back here
            asked = node.memory.of(vm).stop_from_s is not None
            return not asked and (
                spec is None or spec.record is None or not leaving(world, node.name, spec.record)
            )
        if self._released_s is None:
            self._released_s = now_s
        if not wants_on(world, vm) or now_s - self._released_s > PATIENCE_S:
            return True
        status = world.status(vm)
        record = status.record if status is not None else None
        if claim is not None:
            return record is not None and record.phase in (Phase.RUNNING, Phase.PAUSED, Phase.FAILED)
        wait = node.engine.waiting.get(vm)
        return wait is not None and not wait.head and not wait.held
