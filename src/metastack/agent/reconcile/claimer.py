"""The claimer: this node claims VMs that no session owns, and takes over VMs of fenced sessions.

Owns: what goes into a claim.
Refuses: deciding whose turn it is (core/plan); the guards (core/protocol/claims).
Rule: from the last look at the world to the sending of a claim nothing is awaited.
"""

from __future__ import annotations

from typing import NoReturn

import structlog

from ...core import plan
from ...core.model import Claim, Phase, VmId, VmSpec, VmStatus
from ...core.plan import VmSnapshot
from ...core.protocol import claims
from ...core.protocol.group_versions import GroupVersions
from ...core.protocol.rule_versions import RuleVersions
from ...core.transaction import MAX_OPERATIONS, Transaction
from ...ports import Refused, UnknownOutcome
from ..context import AgentContext
from ..fencing.fence_check import earlier
from .claim_batch import ClaimBatch
from .snapshot import was_paused
from .vm_disk import volume_of
from .vm_memory import VmMemory
from .volume_index import belongs

log = structlog.get_logger()


def log_owned(node: AgentContext, what: str, vm: VmId, **more: object) -> None:
    """Log a claim that is this node's now."""
    found = node.world.claim(vm)
    claim = found.record if found is not None else None
    if claim is not None:
        log.info(what, vm=str(vm), node=node.name, session=claim.session, epoch=claim.epoch, **more)


class Claimer:
    """Claims and takeovers of one node."""

    def __init__(self, node: AgentContext, batch: ClaimBatch) -> None:
        self._node, self._batch = node, batch

    async def claim(self, snapshot: VmSnapshot, memory: VmMemory) -> None:
        """Claim a VM that no session owns."""
        node, vm = self._node, snapshot.vm
        assert snapshot.spec is not None
        spec = snapshot.spec.ok
        self._refuse_strange_disk(spec, memory)
        self._batch.reserve(vm, spec)
        me = node.session.me
        new = Claim(
            node=node.name,
            session=me.session,
            uuid=spec.uuid,
            volume_uuid=spec.volume_uuid,
            claim_id=node.clock.ident(),
            generation=me.generation,
        )
        status = self._first_status(spec.uuid, me.session)
        volume = None
        if node.world.volume(spec.project, spec.volume_uuid) is None:
            volume = volume_of(node, spec)
        event = node.event("vm.claimed", str(vm))
        change = claims.claim(
            node.keys,
            me,
            vm,
            snapshot.spec,
            new,
            status,
            volume,
            node.world.facts(node.name),
            event,
            node.group_versions(spec),
            node.rule_versions(spec),
        )
        if await self._send(vm, change):
            memory.new_disk = volume is not None
            log_owned(node, "claimed", vm)

    async def _send(self, vm: VmId, change: Transaction) -> bool:
        """Commit a claim whose capacity is reserved; the reservation lasts until the outcome is known."""
        try:
            self._refuse_too_large(vm, change)
            won = await self._batch.commit(vm, change)
        except UnknownOutcome:
            raise  # freed when it is settled
        except BaseException:
            self._batch.free(vm)
            raise
        self._batch.free(vm)
        return won

    def _refuse_strange_disk(self, spec: VmSpec, memory: VmMemory) -> None:
        """Safety: a spec that names the disk of another VM would bring that disk a second writer."""
        for volume in self._node.disks.named(spec.volume_uuid):
            if belongs(volume, spec):
                continue
            why = f"its disk {volume.uuid} belongs to {volume.project}/{volume.vm} (uuid {volume.vm_uuid})"
            self._refuse(spec.id, why, memory)

    def _refuse_too_large(self, vm: VmId, change: Transaction) -> None:
        """More group rules bear on it than a transaction can prove: sending it would end this agent."""
        sizes = len(change.guards), len(change.effects)
        if max(sizes) > MAX_OPERATIONS:
            why = (
                f"its group rules would take {sizes[0]} comparisons and {sizes[1]} writes, {MAX_OPERATIONS} are"
                " one transaction: reduce its labels, or the rules of other VMs about them"
            )
            self._refuse(vm, why, self._node.memory.of(vm))

    def _refuse(self, vm: VmId, why: str, memory: VmMemory) -> NoReturn:
        if memory.message != why:
            memory.message = why
            log.error("claim_refused", vm=str(vm), node=self._node.name, why=why)
        raise Refused(f"{vm}: {why}")

    def _first_status(self, uuid: str, session: int, phase: Phase = Phase.STARTING) -> VmStatus:
        node = self._node
        return VmStatus(
            uuid=uuid,
            phase=phase,
            node=node.name,
            session=session,
            epoch=0,
            since=node.clock.stamp(),
        )

    async def take_over(self, snapshot: VmSnapshot) -> None:
        """Take the claim of a session that is shut out."""
        assert snapshot.owner_fence is not None
        assert snapshot.claim is not None
        node, vm, old = self._node, snapshot.vm, snapshot.claim
        me = node.session.me
        if flaw := node.world.fence_flaw(old.ok.node):
            raise Refused(f"{vm}: the fence of {old.ok.node} is not valid: {flaw}")
        spec = snapshot.spec.record if snapshot.spec is not None else None
        same = spec is not None and spec.uuid == old.ok.uuid
        wanted = plan.wants_on(snapshot)
        new = Claim(
            node=node.name,
            session=me.session,
            uuid=old.ok.uuid,
            volume_uuid=old.ok.volume_uuid,
            claim_id=node.clock.ident(),
            generation=me.generation,
            taken_from=old.ok.node,
            taken_before=earlier(old.ok),
            was_paused=same and was_paused(snapshot),
            # Safety: its capacity and its groups are not looked at, so it is never started under this claim.
            # The claim says so, not this agent's memory: the next agent here finds the VM wanted, perhaps.
            to_release=not wanted,
        )
        group_versions: GroupVersions = ()
        rule_versions: RuleVersions = ()
        if wanted and spec is not None:
            self._batch.reserve(vm, spec)
            group_versions, rule_versions = node.group_versions(spec), node.rule_versions(spec)
        phase = Phase.STARTING if same and wanted else Phase.STOPPING
        status = self._first_status(old.ok.uuid, me.session, phase)
        change = claims.takeover(
            node.keys,
            me,
            vm,
            old,
            snapshot.owner_fence,
            snapshot.spec,
            new,
            status,
            node.world.facts(node.name),
            node.event("vm.taken_over", str(vm), f"from {old.ok.node}"),
            group_versions,
            rule_versions,
            node.world.storage_identity(),
            flaw,
        )
        if await self._send(vm, change):
            log_owned(node, "taken_over", vm, taken_from=old.ok.node)
