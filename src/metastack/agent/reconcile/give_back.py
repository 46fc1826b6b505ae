"""Return to pending: a VM that cannot start here, by a fault of this node, goes where it can start.

Owns: counting such failures, when it is time, and the penalty that keeps the VM from coming straight back.
Refuses: judging by an error's text: only a :class:`NodeFault` counts. A disk in use, a missing disk and a bad
image are faults of the object, and a pinned VM has no other node.
Rule: before a VM is given back, no start of it is in flight here and it has no domain here, as for a release
(agent/reconcile/domain_actions). At most one hand-over per VM and minute, and none if no other node would take
it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import structlog

from ...core.model import Penalty, VmId, VmSpec
from ...core.placement import elsewhere
from ...core.plan import VmSnapshot
from ...core.protocol import claims
from ...ports import NodeFault, ObjectFault, Refused, Unavailable
from ..context import AgentContext
from .vm_memory import VmMemory

log = structlog.get_logger()

STARTS_BEFORE_GIVE_BACK: Final = 3
"""Starts that fail one after the other for this node's reason, before it is given back."""
HAND_OVERS_APART_S: Final = 60.0
"""Between two hand-overs of one VM, which is as long as a node that took it from another keeps it at least."""
PENALTY_TTL_S: Final = 600
"""Life of a penalty: then the node is tried again, if the VM is still not running well elsewhere."""
MAX_REASON_LENGTH: Final = 300
"""Characters of a reason."""


def note(memory: VmMemory, error: Exception, spec_mod: int) -> None:
    """A start failed. What is neither this node's nor the object's trouble (a silent storage) says nothing."""
    memory.failed_mod = spec_mod
    if isinstance(error, NodeFault):
        memory.node_faults += 1
        memory.node_fault = _short(str(error))
    elif isinstance(error, ObjectFault):
        memory.node_faults, memory.node_fault = 0, ""


def renew(memory: VmMemory, spec_mod: int) -> None:
    """If a person changed the spec since, or asked for a start, it is tried now."""
    if memory.failed_mod and memory.failed_mod != spec_mod:
        memory.failed_mod = memory.failures = memory.node_faults = 0
        memory.node_fault = memory.message = ""
        memory.failed, memory.retry_at_s = False, 0.0


def why(node: AgentContext, vm: VmId, memory: VmMemory) -> str:
    """Why a VM of this node that does not run is to be given back now; empty: it stays."""
    if memory.node_faults < STARTS_BEFORE_GIVE_BACK:
        return ""
    spec = _spec(node, vm)
    if spec is None or spec.placement.node:
        return ""
    now_s = asyncio.get_running_loop().time()
    if any(_others(node, spec)) and now_s - memory.held_from_s < HAND_OVERS_APART_S:
        return ""
    return memory.node_fault if elsewhere(node.engine, node.name, spec) else ""


def attempts_text(node: AgentContext, vm: VmId, memory: VmMemory) -> str:
    """What a failed VM's message says besides: that it stays here, and what the others said."""
    spec = _spec(node, vm)
    if spec is None or not memory.node_faults:
        return ""
    found = [f"; before that on {name}: {one.reason}" for name, one in _others(node, spec)]
    if (
        memory.node_faults >= STARTS_BEFORE_GIVE_BACK
        and not spec.placement.node
        and not elsewhere(node.engine, node.name, spec)
    ):
        found.append("; it fits no other node: it is tried again here")
    return "".join(found)


async def give(node: AgentContext, snapshot: VmSnapshot, reason: str) -> bool:
    """Give it back, with its penalty; false when somebody changed it meanwhile.

    Nothing of it can begin here any more, and no domain of it is here: the caller made sure.
    """
    assert snapshot.claim is not None
    assert snapshot.spec is not None
    memory, vm = node.memory.of(snapshot.vm), snapshot.vm
    lease = await node.store.grant(PENALTY_TTL_S)
    penalty = Penalty(
        uuid=snapshot.spec.ok.uuid,
        spec_mod=snapshot.spec.mod,
        reason=reason,
        at=node.clock.stamp(),
        until=node.clock.stamp(PENALTY_TTL_S),
        tries=memory.node_faults,
    )
    event = node.event("vm.returned_to_pending", str(vm), f"{node.name} cannot start it: {reason}")
    me, keys = node.session.me, node.keys
    change = claims.give_back(keys, me, vm, snapshot.claim, snapshot.spec, penalty, lease.id, event)
    if not await node.commit(change):
        with suppress(Unavailable, Refused):  # it expires by itself
            await node.store.revoke(lease)
        return False
    node.memory.forget(vm)
    log.warning("returned_to_pending", vm=str(vm), node=node.name, epoch=snapshot.claim.ok.epoch, why=reason)
    return True


def _spec(node: AgentContext, vm: VmId) -> VmSpec | None:
    found = node.world.spec(vm)
    return found.record if found is not None else None


def _others(node: AgentContext, spec: VmSpec) -> Iterator[tuple[str, Penalty]]:
    for name, penalty in sorted(node.engine.penalties.of(spec).items()):
        if name != node.name:
            yield name, penalty


def _short(text: str) -> str:
    """One line of a bounded length: QEMU may say a page."""
    line = " ".join(text.split())
    return line if len(line) <= MAX_REASON_LENGTH else line[: MAX_REASON_LENGTH - 1] + "…"
