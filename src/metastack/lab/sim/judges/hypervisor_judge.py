"""The hypervisor judge: what an agent asks its hypervisor to do to a guest, seen at the moment it asks.

Owns: which guests may be started, and which may be ended. Refuses: knowing why an agent did it; it looks at
what is true in etcd, on the machine and in the pool. Rule: only what is wrong for certain counts: a request
that came a moment ago is no reason to blame a node.
"""

from __future__ import annotations

from typing import Final

from ....core.domains import DomainState
from ....core.model import Claim, Fence, OnHostShutdown, Power, VmId, VmSpec
from ....ports import DomainSpec
from ..engine.host import SimHost
from ..engine.lab import Lab
from .placement_judge import PlacementJudge

LONG_S: Final = 30.0
"""Longer than any stop of an agent between its last look and what it does then."""


class HypervisorJudge:
    """Starts and ends of guests; the tables are those of the other judges."""

    def __init__(
        self,
        lab: Lab,
        placement_judge: PlacementJudge,
        claims: dict[VmId, Claim],
        specs: dict[VmId, VmSpec],
        fences: dict[str, Fence],
    ) -> None:
        self._lab, self._placement_judge = lab, placement_judge
        self._claims, self._specs, self._fences = claims, specs, fences
        self.changed_s: dict[VmId, float] = {}
        """When a claim, a spec or a halt of it changed last."""
        self.blocked_s: dict[str, float] = {}
        """When each machine was last seen to be shut out of the storage."""
        self.ready: set[int] = set()
        """Sessions that ever were ready."""
        self._asked: dict[tuple[str, str], list[DomainSpec | None]] = {}
        """Incarnations of a guest that somebody asked to end."""

    def boot(self, host: SimHost, spec: DomainSpec) -> None:
        """An agent starts a guest: only in a session that was ready."""
        if spec.session not in self.ready:
            vm = f"{spec.project}/{spec.name}"
            self._lab.violation("not_ready", f"{host.name} boots {vm} in session {spec.session}, never ready")

    def end(self, host: SimHost, uuid: str, what: str) -> None:
        """An agent asks to end a guest, or to stop one: not one that is wanted there, and has been for long.

        Any is asked to stop while its host shuts down. It is ended then only if it is to run elsewhere.
        """
        asked = self._asked.setdefault((host.name, uuid), [])
        asked.append(host.hypervisor.specs.get(uuid))
        domain = next((host.hypervisor.whole(d) for d in host.hypervisor.known() if d.uuid == uuid), None)
        if domain is None or domain.state is DomainState.DEFINED:
            return
        if not domain.managed:
            self._lab.violation("destroyed", f"{host.name} ends {domain.name}, which is somebody else's")
            return
        vm, now_s = VmId(domain.project, domain.name), self._lab.loop.time()
        claim, spec = self._claims.get(vm), self._specs.get(vm)
        halted = self._lab.cluster.get(self._lab.keys.halt(vm)) is not None
        if claim is None or spec is None or halted or spec.power is not Power.ON or domain.run < spec.run:
            return
        if (claim.node, claim.uuid, claim.epoch, spec.uuid) != (host.name, uuid, domain.epoch, uuid):
            return
        if self._placement_judge.may_leave(host.name, spec):
            return
        released = self._lab.config.on_host_shutdown is OnHostShutdown.RELEASE
        if what == "shutdown" and self._lab.cluster.get(self._lab.keys.cluster_shutdown()) is not None:
            return
        if host.shuts_down and (released or what == "shutdown"):
            return
        if host.shut_out() or self._lab.pool.refuses(host.client_of(uuid)):
            return  # what the storage refuses is over, also when the block came late and nobody wrote it down
        reached = claim.session <= self._fences.get(host.name, Fence()).through
        changed_s = max(self.changed_s.get(vm, 0.0), self.blocked_s.get(host.name, -LONG_S))
        if not reached and now_s - changed_s > LONG_S:
            self._lab.violation("destroyed", f"{host.name} ends {vm}, which is wanted there and was not fenced")

    def ended(self, host: SimHost, uuid: str, spec: DomainSpec | None) -> None:
        """A guest was ended by force: the one that somebody asked to end, not its successor."""
        if not any(spec is asked for asked in self._asked.get((host.name, uuid), ())):
            self._lab.violation("destroyed", f"{host.name} ended {uuid} by an order that was not meant for it")
