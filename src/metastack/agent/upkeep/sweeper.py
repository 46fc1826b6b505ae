"""The sweeper: removes what exists and is not desired: disks of deleted VMs, remains of imports, old events.

Owns: whose turn it is to remove what no record asks for any more. (How it goes: :mod:`.removal`.)
Refuses: acting on having seen an event; each look starts from what exists.
Rule: a disk goes only when no spec and no claim refers to its UUID; as a UUID never returns, that stays true.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from ...core.model import Claim, Event, VmId, VmSpec, Volume
from ...core.protocol import claims
from ...core.protocol.guards import in_session
from ...core.protocol.rule_versions import RULE_VERSION, of_rules
from ...core.state.cluster_state import ClusterState, seen
from ...core.state.keys import Kind
from ...core.transaction import Delete, Transaction
from ..context import AgentContext
from .removal import Remover

log = structlog.get_logger()

RANK_DELAY_S = 2.0
"""Between two nodes that may do the same sweep."""
TOGETHER = 256
"""VMs that are looked at before the loop has its turn: a millisecond's work."""
HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS


def orphaned(world: ClusterState, project: str, uuid: str) -> bool:
    """No spec and no claim refers to that volume.

    Safety: the volume's record is younger than the spec that it was made for, so a world that shows the
    volume and not the spec has seen the spec's deletion.
    """
    volume = world.volume(project, uuid)
    if volume is None or volume.record is None:
        return False
    vm = VmId(volume.record.project, volume.record.vm)
    spec, claim = world.spec(vm), world.claim(vm)
    if spec is not None and (spec.record is None or spec.record.volume_uuid == volume.record.uuid):
        return False
    refers = claim is not None and (claim.record is None or claim.record.volume_uuid == volume.record.uuid)
    return not refers


def orphans(world: ClusterState) -> list[tuple[str, str]]:
    """Volumes that no spec and no claim refers to, as (project, UUID)."""
    return [names for names, _ in world.volumes() if orphaned(world, *names)]


class Sweeper:
    """Removes what nothing asks for."""

    def __init__(self, node: AgentContext) -> None:
        self._node = node
        self._remover = Remover(node)
        self._agreed = (-1e18, 0.0)
        """When another clock was found to agree with this node's, by the loop's time, and by how much."""

    def stuck_removals(self) -> tuple[str, ...]:
        """What could not be removed, and why: for people."""
        return self._remover.stuck.said()

    async def disk(self, project: str, uuid: str, waited_s: float) -> float:
        """Remove one orphaned disk in this node's turn; returns seconds until the next look (0: never)."""
        node = self._node
        if not node.session.ready or node.informer.etcd_untrusted or not orphaned(node.world, project, uuid):
            return 0.0
        rank = node.rank_of(f"volume:{uuid}")
        if rank is None:
            return 0.0
        if rank * RANK_DELAY_S > waited_s:
            return rank * RANK_DELAY_S - waited_s
        volume = node.world.volume(project, uuid)
        if volume is None or volume.record is None:
            return 0.0
        if not await self._nobody_refers_to(volume.record):
            log.warning("informer_stale", volume=uuid, node=node.name)
            await node.informer.look()
            return 0.0
        vm = VmId(volume.record.project, volume.record.vm)
        if (first := node.disks.first(uuid)) not in (None, (project, uuid)):
            # Safety: specs of two projects named one disk; it is the other's, and was never used for this one.
            log.warning("volume_record_dropped", volume=uuid, vm=str(vm), project=first[0], node=node.name)
            await node.commit(claims.forget_volume(node.keys, node.session.me, volume, vm))
            return 0.0
        if await self._remover.used(uuid):
            # A spec of another name has it: somebody renamed it by hand, or copied it.
            return await self._remover.leave(volume, vm)
        return await self._remover.to_trash(volume, vm)

    async def _nobody_refers_to(self, volume: Volume) -> bool:
        """Ask etcd itself before anything is removed.

        Safety: watches have been known to lose events. A node that missed a spec's must not take its disk.
        """
        node, vm = self._node, VmId(volume.project, volume.vm)
        spec = await node.store.get(node.keys.vm_spec(vm))
        claim = await node.store.get(node.keys.claim(vm))
        found = [seen(VmSpec, spec).record if spec else None, seen(Claim, claim).record if claim else None]
        if (spec is not None and found[0] is None) or (claim is not None and found[1] is None):
            return False  # unreadable: it may refer to anything
        return all(record is None or record.volume_uuid != volume.uuid for record in found)

    def sweeps(self) -> tuple[Callable[[], Awaitable[None]], ...]:
        """What is done now and then, in this order."""
        return (self.images_being_deleted, self.images, self.trash, self.group_versions, self.events)

    async def images_being_deleted(self) -> None:
        """Finish deletions of images."""
        if self._node.session.ready and self._node.rank_of("sweep:images") == 0:
            await self._remover.images()

    async def images(self) -> None:
        """Remove the remains of importers that died."""
        if self._node.session.ready and self._node.rank_of("sweep:images") == 0:
            await self._remover.imports()

    async def trash(self) -> None:
        """Remove what has outlived its retention."""
        if self._node.session.ready and self._node.rank_of("sweep:trash") == 0:
            await self._remover.trash()

    async def group_versions(self) -> None:
        """Drop group versions that no claim bears any more, and rule versions of rules that no VM has.

        Here and not in each release, which must not fail because somebody of the group moved meanwhile.
        """
        node = self._node
        world = node.world
        # Safety: as they are before the first look. What is put while we look, or while the first of them go,
        # has another revision and is no remains: every claim puts what it bears, every rule its rule version.
        there = {names: world.group(*names) for names in world.names(Kind.GROUP) if len(names) == 3}
        if not there or not node.session.ready or node.rank_of("sweep:tokens") != 0:
            return
        borne = set()
        vms = {*world.names(Kind.VM_SPEC), *world.names(Kind.CLAIM)}
        for looked, vm in enumerate(sorted(VmId(*names) for names in vms), 1):
            claim, spec = world.claim(vm), world.spec(vm)
            if spec is None:
                if claim is not None:
                    return  # nobody knows what it bears
                continue  # gone since
            if spec.record is None or (claim is not None and claim.record is None):
                return  # nor which rule versions it changed
            borne |= {(vm.project, group, RULE_VERSION) for group in of_rules(spec.record)}
            if claim is not None:
                borne |= {
                    (vm.project, *version) for version in node.engine.group_versions(spec.record, claim.ok.node)
                }
            if looked % TOGETHER == 0:
                await asyncio.sleep(0)
        for names in sorted(there.keys() - borne):
            if (found := there[names]) is not None:
                key = node.keys.group(*names)
                await node.commit(claims.forget_group_version(node.keys, node.session.me, key, found))

    async def _clock_agrees(self) -> bool:
        """Somebody else's clock says about the same: an event of another writer is recent by this node's.

        A clock that is ahead would trim what is young. Where nothing happened lately, there is nothing to trim.
        """
        node = self._node
        if len(node.successors.ready) <= 1:
            return True  # nobody to ask
        now_ms, ticks_ms = node.clock.ms(), asyncio.get_running_loop().time() * 1000
        agreed_ms, offset_ms = self._agreed
        if ticks_ms < agreed_ms + HOUR_MS and abs(now_ms - ticks_ms - offset_ms) < HOUR_MS:
            return True
        prefix = node.keys.prefix(Kind.EVENT)
        # The first digits of the time are a range of 2.8 hours; the one before it, for the start of one.
        ranges = [f"{prefix}{at_ms:014d}"[:-7] for at_ms in (now_ms, now_ms - 10_000_000)]
        found = await node.store.list(*ranges)
        events = (seen(Event, entry).record for entry in found.entries)
        if any(event is not None and event.by != f"node/{node.name}" for event in events):
            self._agreed = (ticks_ms, now_ms - ticks_ms)
            return True
        log.debug(
            "event_trim_skipped", node=node.name, why="no event of another writer is recent by this clock"
        )
        return False

    async def events(self) -> None:
        """Trim events/ to its retention: keys sort by time, so the old ones are one range."""
        node = self._node
        if not node.session.ready or node.rank_of("sweep:events") != 0:
            return
        if not await self._clock_agrees():
            return
        before_ms = node.clock.ms() - node.world.config.event_retention_days * DAY_MS
        start, end = node.keys.events_before(max(0, before_ms))
        change = Transaction(
            name="trim_events",
            guards=(in_session(node.keys, node.session.me),),
            effects=(Delete(start, end),),
        )
        await node.store.commit(change)
