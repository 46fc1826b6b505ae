"""A VM's disk before its boot: made once, found ever after.

Owns: which of the two it is, and what happens when a disk that was made is not there.
Refuses: making a disk a second time. A fresh clone in the place of a lost disk would hide that it is lost.
Rule: the record says "made" only after the storage did, and before anything is booted from it.
"""

from __future__ import annotations

import structlog

from ...core.model import Claim, Trashed, VmSpec, Volume
from ...core.protocol import disk_life
from ...core.state.cluster_state import Seen, seen
from ...ports import MissingDisk, Refused, UnknownOutcome
from ..context import AgentContext
from .vm_memory import VmMemory

log = structlog.get_logger()


class VmDisk:
    """Sees that a VM's disk is there."""

    def __init__(self, node: AgentContext) -> None:
        self._node = node

    async def prepare(self, spec: VmSpec, held: Seen[Claim], memory: VmMemory) -> bool:
        """Make the disk of a new VM, or find that of an older one; false: look again.

        Raises MissingDisk when it was made and is gone, NotOurs when another object has its name.
        """
        node = self._node
        found = node.world.volume(spec.project, spec.volume_uuid)
        if not _was_made(found, memory):
            # Safety: watches have been known to lose events, and who missed "made" would make it twice.
            entry = await node.store.get(node.keys.volume(spec.project, spec.volume_uuid))
            found = seen(Volume, entry) if entry is not None else None
        made = _was_made(found, memory)
        try:
            trashed = await self._find(spec) if made else await self._make(spec)
        except UnknownOutcome:
            # It may appear when its VM and its record are gone.
            memory.disk_in_flight = True
            raise
        record = found.record if found is not None else volume_of(node, spec)
        ours = node.mark("disk", spec.volume_uuid).cluster
        marked = record is not None and record.cluster_id == ours
        if record is None or (record.made and marked and trashed is None):
            memory.new_disk = False
            return True
        back = (
            node.event("vm.disk_restored", str(spec.id), "put back from the trash")
            if trashed is not None
            else ()
        )
        change = disk_life.made(node.keys, node.session.me, spec.id, held, found, record, ours, trashed, back)
        if not await node.commit(change):
            return False
        memory.new_disk = False
        return True

    async def _make(self, spec: VmSpec) -> Seen[Trashed] | None:
        """A disk for a new VM; or the one that it had, when its spec was taken away and came back."""
        node, uuid = self._node, spec.volume_uuid
        trashed = await self._put_back(spec)
        await node.storage.create_disk(uuid, spec.image_uuid, spec.disk_bytes, node.mark("disk", uuid))
        return trashed

    async def _find(self, spec: VmSpec) -> Seen[Trashed] | None:
        node, uuid = self._node, spec.volume_uuid
        mark = node.mark("disk", uuid)
        try:
            await node.storage.adopt_disk(uuid, spec.disk_bytes, mark)
        except MissingDisk:
            trashed = await self._put_back(spec)
            if trashed is None:
                raise MissingDisk(await self._what_to_do(spec)) from None
            await node.storage.adopt_disk(uuid, spec.disk_bytes, mark)
            return trashed
        return None

    async def _put_back(self, spec: VmSpec) -> Seen[Trashed] | None:
        """Take the disk out of the trash, if a node of ours put it there."""
        node, uuid = self._node, spec.volume_uuid
        entry = await node.store.get(node.keys.trash(uuid))
        if entry is None:
            return None
        found = seen(Trashed, entry)
        if found.record is None:
            raise Refused(f"its disk may be in the trash, but the record of that cannot be read: {found.why}")
        record = found.record
        if record.vm_uuid != spec.uuid:
            raise Refused(
                f"its disk {uuid} is in the trash as that of {record.project}/{record.vm} "
                f"(uuid {record.vm_uuid})"
            )
        if not await node.storage.restore_disk(uuid, record.ident, node.mark_of(record)):
            return None
        log.warning("disk_restored", volume=uuid, vm=str(spec.id), node=node.name)
        return found

    async def _what_to_do(self, spec: VmSpec) -> str:
        said = await self._node.storage.missing(spec.volume_uuid)
        if "trash" in said:
            return said
        return (
            f"{said}: if it was renamed, give it back its name; if it is lost, `metastack vm rebuild "
            f"{spec.id} --from-image --yes --reason WHY` makes an empty one from its image"
        )


def _was_made(found: Seen[Volume] | None, memory: VmMemory) -> bool:
    """Safety: what nobody wrote down counts as made, for the record is written in the claim's transaction.

    But while nodes write older records, ``made`` is lost with each: then this agent's own claim is the proof,
    in whose transaction the record was, and of which no disk was made yet.
    """
    record = found.record if found is not None else None
    made = record.made if record is not None else None
    return not memory.new_disk if made is None else made


def volume_of(node: AgentContext, spec: VmSpec) -> Volume:
    """The record of a VM's disk that is not made yet."""
    return Volume(
        uuid=spec.volume_uuid,
        project=spec.project,
        vm=spec.name,
        vm_uuid=spec.uuid,
        size_bytes=spec.disk_bytes,
        image_uuid=spec.image_uuid,
        pool=node.world.config.default_pool,
        trash_retention_s=node.world.config.trash_retention_s,
        made=False,
    )
