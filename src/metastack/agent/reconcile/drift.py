"""Drift: a running guest differs from its VM's spec, because a person changed it by hand.

Owns: the comparison, when it is made, and whether a guest may be ended now. Refuses: mending anything.
Rule: a guest that writes elsewhere than on its disk is not ended by this node unless a person gave what it
wrote up. Booted again it would begin where its disk was left, and everything since would lie in a file that
nobody knows of.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from ...core import plan
from ...core.domains import DomainState, Live
from ...core.model import VmSpec
from ...core.plan import VmSnapshot
from ...ports import NotFound, Refused, Unavailable
from ..context import AgentContext
from .vm_memory import VmMemory

log = structlog.get_logger()

LOOK_EVERY_S: Final = 15.0
HELD_S: Final = 5.0
"""A guest that may not be ended is looked at again this soon."""


class DriftDetector:
    """Compares the domains of one node with what they should be."""

    def __init__(self, node: AgentContext) -> None:
        self._node = node

    async def look(self, snapshot: VmSnapshot, memory: VmMemory) -> bool:
        """Compare a running guest, now and then; true: there is something new to say."""
        now_s = asyncio.get_running_loop().time()
        if now_s < memory.drift_look_s:
            return False
        memory.drift_look_s = now_s + LOOK_EVERY_S
        return await self._compare(snapshot, memory)

    async def holds(self, snapshot: VmSnapshot, action: plan.Action, memory: VmMemory) -> bool:
        """Whether this step would end a guest, or clear one away, that wrote elsewhere than on its disk."""
        if not isinstance(action, plan.AskToStop | plan.Kill) or not _mine(snapshot):
            return False
        spec, domain = snapshot.spec, snapshot.domains[0] if snapshot.domains else None
        assert spec is not None
        if domain is None or domain.uuid != action.uuid:
            return False
        if spec.ok.force and (not plan.wants_on(snapshot) or domain.run < spec.ok.run):
            return False  # a person pulls the plug: `--discard-drift` is `--force` too
        await self._compare(snapshot, memory)
        memory.held_drift = bool(memory.elsewhere)
        if memory.held_drift:
            log.warning("kill_withheld", vm=str(snapshot.vm), node=self._node.name, writes=memory.elsewhere)
        return memory.held_drift

    async def _compare(self, snapshot: VmSnapshot, memory: VmMemory) -> bool:
        domain = snapshot.domains[0]
        assert snapshot.spec is not None
        spec, before = snapshot.spec.ok, (memory.drift, memory.elsewhere)
        try:
            live = await self._node.hypervisor.live(domain.uuid)
            source = await self._node.storage.disk_source(spec.volume_uuid)
        except (NotFound, Refused) as error:
            log.info("drift_check_failed", vm=str(snapshot.vm), error=str(error))
            return False
        except Unavailable:
            if domain.state is DomainState.DEFINED:
                raise  # it would be cleared away unseen
            return False
        memory.drift, memory.elsewhere = drift_of(live, spec, source.path)
        if before != (memory.drift, memory.elsewhere):
            log.warning("drift", vm=str(snapshot.vm), node=self._node.name, drift=list(memory.drift))
            return True
        return False


def _mine(snapshot: VmSnapshot) -> bool:
    """The guest is this VM's, under this node's claim: only its spec can end it."""
    claim = snapshot.claim.record if snapshot.claim is not None else None
    spec = snapshot.spec.record if snapshot.spec is not None else None
    domain = snapshot.domains[0] if snapshot.domains else None
    return (
        claim is not None
        and spec is not None
        and domain is not None
        and claim.node == snapshot.node
        and claim.session > snapshot.fenced_through
        and claim.uuid == spec.uuid == domain.uuid
        and domain.epoch == claim.epoch
    )


def drift_of(live: Live, spec: VmSpec, disk: str) -> tuple[tuple[str, ...], str]:
    """How a guest differs from its spec, in words; and where it writes, if that is not its disk."""
    found, elsewhere = [], ""
    if live.disk != disk:
        elsewhere = live.disk or "nothing"
        found.append(f"writes to {elsewhere} instead of its disk {disk}")
    if live.others:
        found.append(f"has further disks: {', '.join(live.others)}")
    wanted = sorted((nic.mac.lower(), nic.bridge) for nic in spec.nics)
    if sorted(live.nics) != wanted:
        found.append(f"has the NICs {_nics(live.nics)}, not {_nics(wanted)}")
    if live.cpus != spec.cpus:
        found.append(f"has {live.cpus} vCPUs, not {spec.cpus}")
    if live.memory_mib != spec.memory_mib:
        found.append(f"has {live.memory_mib} MiB of memory, not {spec.memory_mib}")
    return tuple(found), elsewhere


def _nics(nics: tuple[tuple[str, str], ...] | list[tuple[str, str]]) -> str:
    return ", ".join(f"{mac} on {bridge or 'nothing'}" for mac, bridge in nics) or "none"


def held_words(elsewhere: str, node: str) -> str:
    """Why it is not ended, and what to do."""
    return (
        f"not stopped, because it wrote to {elsewhere} instead of its disk: on {node}, merge that with virsh "
        "blockcommit --active --pivot, or discard it with `metastack vm stop|restart --discard-drift`"
    )
