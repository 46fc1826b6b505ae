"""The host shuts down: its guests are seen off, and its VMs are given to others or kept for its return.

Owns: the order and the bounds of that, between SIGTERM and the end of the session.
Refuses: what becomes of which VM (core/host_shutdown), and the steps of one VM, which are the reconciler's.
Rule: it ends in bounded time, whatever hangs: systemd kills an agent that does not, and the guests with it.

# Safety: a claim is given back by the same release as ever, with the domain gone. A claim that is kept needs no
proof: nobody takes it over without a fence. A guest that still runs then is ended by the host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

import structlog

from ...core.domains import Domain, DomainState, of_another
from ...core.host_shutdown import HostPlan, decide, fate, patience_s
from ...core.model import HostReturn, OnHostShutdown, VmId
from ...core.plan import HostStop
from ...core.protocol.cluster_shutdown import going_down
from ...core.protocol.host_return import leave, stay
from ...ports import Refused, Unavailable
from ..context import AgentContext
from ..fencing.storage_silence import StorageSilence

log = structlog.get_logger()

LOOK_S: Final = 0.5
ASK_EVERY_S: Final = 5.0
GIVE_BACK_S: Final = 15.0
"""For the end of those that did not stop, and for giving the claims back."""
LEAVE_S: Final = 30.0
"""For what the agent does after that, with every call at its bound."""
ANSWER_S: Final = 5.0
"""For one call to libvirtd or etcd."""


class HostShutdown:
    """One agent's last act, if its host shuts down."""

    def __init__(
        self,
        node: AgentContext,
        silence: StorageSilence,
        changed: Callable[[], None],
        host_stops: Callable[[], Awaitable[bool]],
        extend: Callable[[float, str], None],
    ) -> None:
        """``extend`` tells the service manager how long this takes at most, and why."""
        self._node, self._silence, self._changed = node, silence, changed
        self._host_stops, self._extend = host_stops, extend
        self._plan: HostPlan | None = None
        self._asked_s = self._from_s = 0.0
        self._leaving = False
        """This very host goes down now, whatever becomes of the cluster."""
        self._kept = False
        """The others wait for this host, which is still up: the whole cluster is being shut down."""

    def announced(self) -> str:
        """What is published of it; empty: this host does not shut down."""
        return "" if self._plan is None else self._plan.policy.value

    def fate(self, vm: VmId) -> HostStop | None:
        """What becomes of a VM of this node; None: this host does not shut down."""
        return None if self._plan is None else fate(self._node.engine, self._node.name, self._plan.policy, vm)

    async def run(self) -> bool:
        """See the guests off, if the host shuts down; false: it does not, or nothing is to be done."""
        if not await self._host_stops():
            return False
        node, world = self._node, self._node.world
        plan = decide(world, node.name, node.boot_id, self._silence.since)
        log.warning("host_shutdown", node=node.name, policy=plan.policy.value, why=plan.why)
        if plan.policy is OnHostShutdown.LEAVE:
            return False
        self._plan, self._leaving, wait_s = plan, True, patience_s(world)
        self._extend(wait_s + GIVE_BACK_S + LEAVE_S, f"shutdown of the host: guests have {wait_s:g} s to stop")
        self._changed()
        await self._within(wait_s)
        await self._keep(world.config.host_return_s)
        return True

    async def look(self) -> float:
        """Follow a shutdown of the whole cluster; returns seconds until the next look (0: on change)."""
        node, world, now_s = self._node, self._node.world, asyncio.get_running_loop().time()
        why, found = going_down(world, node.name, node.boot_id), world.cluster_shutdown()
        if self._leaving or not node.session.ready:
            return 0.0
        if not why or found is None:
            return await self._stay()
        if self._plan is None:
            self._plan, self._from_s = HostPlan(OnHostShutdown.RETURN, why), now_s
            log.warning("host_shutdown", node=node.name, policy=self._plan.policy.value, why=why)
            self._changed()
        if self._kept:
            return 0.0
        here = await self._here()
        if here != [] and now_s - self._from_s < patience_s(world):
            return LOOK_S
        # It may be up for as long as the record is there, and away for host_return_s after that.
        self._kept = await self._keep(found.ok.ttl_s + world.config.host_return_s)
        return 0.0 if self._kept else LOOK_S

    async def _stay(self) -> float:
        """The cluster is not shut down, or not any more: a host that is still up starts its VMs again."""
        node, found = self._node, self._node.world.host_return(self._node.name)
        if self._plan is None and found is None:
            return 0.0
        if found is not None and not await node.commit(stay(node.keys, node.session.me, found)):
            return LOOK_S
        if self._plan is not None:
            self._plan, self._kept = None, False
            log.warning("host_stays", node=node.name)
            self._changed()
        return 0.0

    async def _within(self, wait_s: float) -> None:
        """Wait until nothing is left to do, or until the time is over."""
        loop = asyncio.get_running_loop()
        end_s = off_s = loop.time() + wait_s
        while (now_s := loop.time()) < (end_s + GIVE_BACK_S if self._to_release() else end_s):
            here = await self._here()
            if here is None or (stopping := [one for one in here if one.state in _STOPPING]):
                await self._ask_without_session(stopping if here else [])
            else:
                off_s = min(off_s, now_s)
                if not (here or self._to_release()) or now_s - off_s >= GIVE_BACK_S:
                    return
            await asyncio.sleep(LOOK_S)
        log.warning("host_shutdown_deadline", node=self._node.name, after_s=wait_s)

    async def _here(self) -> list[Domain] | None:
        """This node's domains; None: libvirtd does not say."""
        try:
            async with asyncio.timeout(ANSWER_S):
                domains = await self._node.hypervisor.domains()
        except (Unavailable, Refused, TimeoutError) as error:
            log.info("domain_list_failed", error=str(error))
            return None
        return [domain for domain in domains if domain.managed and not of_another(domain, self._node.name)]

    def _mine(self) -> list[VmId]:
        node = self._node
        return [vm for vm, claim in node.world.claims() if claim.record and claim.record.node == node.name]

    def _to_release(self) -> bool:
        return any(self.fate(vm) is HostStop.RELEASE for vm in self._mine())

    async def _ask_without_session(self, running: list[Domain]) -> None:
        """Without etcd nobody plans for these guests: they are asked here, so that they end in order.

        Safety: an order to a domain that lives makes no writer, whoever owns its VM by now.
        """
        now_s = asyncio.get_running_loop().time()
        if self._node.session.ready or now_s - self._asked_s < ASK_EVERY_S:
            return
        self._asked_s = now_s
        async with asyncio.TaskGroup() as group:
            for domain in running:
                group.create_task(self._ask(domain))

    async def _ask(self, domain: Domain) -> None:
        try:
            async with asyncio.timeout(ANSWER_S):
                await self._node.hypervisor.shutdown(domain.uuid)
        except (Unavailable, Refused, TimeoutError) as error:
            log.info("shutdown_request_failed", vm=f"{domain.project}/{domain.name}", error=str(error))

    async def _keep(self, ttl_s: int) -> bool:
        """Have the others wait for this host, if it keeps VMs; false: it could not be recorded.

        Not if a guest runs on that others should start, for its end failed: then this node is fenced at once.
        """
        node, plan, vms = self._node, self._plan, self._mine()
        assert plan is not None
        on = [one for one in await self._here() or [] if one.state is not DomainState.DEFINED]
        running = sorted(f"{one.project}/{one.name}" for one in on)
        if not vms or not node.session.ready or (running and plan.policy is OnHostShutdown.RELEASE):
            log.warning("host_leaves", node=node.name, kept=0, lost=len(vms), running=running)
            return not vms
        record = HostReturn(
            node=node.name,
            boot_id=node.boot_id,
            reason=plan.why or _WHY[plan.policy],
            at=node.clock.stamp(),
            ttl_s=ttl_s,
            vms=len(vms),
            running=tuple(running),
        )
        try:
            async with asyncio.timeout(ANSWER_S):
                lease = await node.store.grant(ttl_s)
                told = node.event("node.leaves", node.name, f"{len(vms)} VMs wait {ttl_s} s for its return")
                found = node.world.host_return(node.name)
                kept = await node.commit(leave(node.keys, node.session.me, found, record, lease.id, told))
        except (Unavailable, Refused, TimeoutError) as error:
            log.warning("host_return_failed", node=node.name, error=str(error))
            return False
        count = len(vms) if kept else 0
        log.warning("host_leaves", node=node.name, kept=count, within_s=ttl_s, running=running)
        return kept


_STOPPING: Final = (DomainState.RUNNING, DomainState.SHUTTING_DOWN)
"""Guests that are waited for. One that is paused hears nothing: it is ended, or left to its host."""
_WHY: Final = {
    OnHostShutdown.RETURN: "on_host_shutdown=return",
    OnHostShutdown.RELEASE: "no other node would take its VMs",
}
