"""Removal: disks into the trash and out of it for good, images, remains of imports. Each for itself.

Owns: what goes, in which order it is written down, and what could not be removed, with its reason.
Refuses: names, and whatever no record of ours names. What lies in the storage is never listed to be removed.
Rule: a disk goes for good only when all of this holds: its record says so; no spec or claim contains its UUID;
its retention is over by two clocks (this node's, and the time that agents counted); the object bears the mark
of its record.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

import structlog
from msgspec.structs import replace

from ...core.model import Counted, Image, ImageState, Import, Trashed, VmId, Volume
from ...core.protocol import claims, disk_life
from ...core.protocol.guards import in_session, unchanged
from ...core.state.cluster_state import Seen, mod_of, seen
from ...core.state.codec import encode
from ...core.state.keys import Kind
from ...core.transaction import Delete, Put, Transaction
from ...ports import InUse, Refused, Unavailable
from ...ports.ownership import refuse_to_remove
from ..context import AgentContext

log = structlog.get_logger()

FRESH_S: Final = 1.0
"""A listing of every UUID in use serves so long: many VMs may be deleted together."""
TOGETHER: Final = 256
"""Records that are searched before the loop has its turn."""
DAY_S: Final = 86_400.0
SAID_S: Final = 300.0
"""What could not be removed is told so long after the last try: others may try now."""
SHOWN: Final = 5
SILENT: Final = 3
"""After this many objects in a row without an answer of the storage the rest is for the next time."""
_UUID: Final = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


class StuckRemoval:
    """What could not be removed, and why."""

    def __init__(self) -> None:
        self._why: dict[str, tuple[str, float]] = {}

    def note(self, what: str, why: str) -> None:
        known = self._why.get(what)
        if known is None or known[0] != why:
            log.warning("removal_failed", what=what, why=why)
        self._why[what] = why, asyncio.get_running_loop().time()

    def clear(self, what: str) -> None:
        self._why.pop(what, None)

    def said(self) -> tuple[str, ...]:
        """For people: the first few."""
        now_s = asyncio.get_running_loop().time()
        self._why = {what: one for what, one in self._why.items() if one[1] > now_s - SAID_S}
        lines = [f"cannot remove {what}: {why}" for what, (why, _) in sorted(self._why.items())]
        more = len(lines) - SHOWN
        return (*lines[:SHOWN], *((f"cannot remove {more} more objects",) if more > 0 else ()))


class Remover:
    """Removes one object after the other, as records say."""

    def __init__(self, node: AgentContext) -> None:
        self._node = node
        self.stuck = StuckRemoval()
        self._used: frozenset[str] = frozenset()
        self._used_s = -1e18
        self._listing = asyncio.Lock()
        self._counting = (-1, 0.0)
        """Revision of the counted time as this node saw it, and when by the loop's clock."""

    # --- who uses a disk

    async def used(self, uuid: str) -> bool:
        """Some spec or claim contains that UUID, whatever it is called and whether or not it can be read.

        Safety: asked of etcd itself. A spec may have been written by hand under another name, and watches have
        been known to lose events.
        """
        asked_s = asyncio.get_running_loop().time()
        async with self._listing:
            if self._used_s < asked_s - FRESH_S:
                now_s = asyncio.get_running_loop().time()
                self._used, self._used_s = await self._list(), now_s
        return uuid in self._used

    async def _list(self) -> frozenset[str]:
        keys, found = self._node.keys, set()
        listed = await self._node.store.list(keys.prefix(Kind.VM_SPEC), keys.prefix(Kind.CLAIM))
        for at, entry in enumerate(listed.entries, 1):
            found.update(_UUID.findall(entry.value))
            if at % TOGETHER == 0:
                await asyncio.sleep(0)
        return frozenset(uuid.decode().lower() for uuid in found)

    async def leave(self, volume: Seen[Volume], vm: VmId) -> float:
        """A disk whose VM is gone and which the spec of another name has: it is that VM's from now on.

        Only where that is the same VM (its UUID says so) and no other. Else it is told, and nothing is done.
        """
        node, record = self._node, volume.ok
        specs = [
            (found.ok, found)
            for _, found in node.world.specs()
            if found.record is not None and found.record.volume_uuid == record.uuid
        ]
        if len(specs) != 1 or specs[0][0].uuid != record.vm_uuid:
            self.stuck.note(f"disk {record.uuid} of {vm}", "its VM is gone, and specs of others name it")
            return 0.0
        spec, found = specs[0]
        own = node.world.volume(spec.project, record.uuid)
        if spec.project == record.project:
            own = None
        change = disk_life.rename(node.keys, node.session.me, volume, vm, found, own)
        if await node.commit(change):
            log.warning("disk_reassigned", volume=record.uuid, was=str(vm), vm=str(spec.id), node=node.name)
        return 0.0

    # --- into the trash

    async def to_trash(self, volume: Seen[Volume], vm: VmId) -> float:
        """Move the disk of a deleted VM to the trash; seconds until the next try (0: with the next sweep)."""
        node, record = self._node, volume.ok
        uuid, what = record.uuid, f"disk {record.uuid} of {vm}"
        mark, unmarked = node.mark("disk", uuid), not record.cluster_id
        try:
            info = await node.storage.disk(uuid)
            if info is None:
                await self._prove_gone(volume)
            else:
                # Before anything is written: what is not ours gets no record of ours.
                refuse_to_remove(f"disk {uuid}", info.mark, info.ident, mark, unmarked)
                if await node.storage.locked(uuid):
                    raise InUse(f"disk {uuid} is open: nothing is written down until it is closed")
                going = await self._going(record, info.ident, mark.cluster)
                entry = await node.store.get(node.keys.trash(uuid))
                old = seen(Trashed, entry) if entry is not None else None
                if not await node.commit(disk_life.trash(node.keys, node.session.me, volume, going, old)):
                    return 1.0
                await node.storage.delete_disk(uuid, record.trash_retention_s, mark, unmarked=unmarked)
        except InUse as error:
            log.info("disk_in_use", volume=uuid, error=str(error))
            self.stuck.note(what, str(error))
            return 5.0
        except Refused as error:
            self.stuck.note(what, str(error))
            return 0.0
        self.stuck.clear(what)
        extra = node.event("volume.removed", uuid, f"disk of {vm}")
        if await node.commit(claims.forget_volume(node.keys, node.session.me, volume, vm, extra)):
            log.info("disk_removed", volume=uuid, vm=str(vm), node=node.name)
        return 0.0

    async def _prove_gone(self, volume: Seen[Volume]) -> None:
        """See that a disk which was not found is gone, or finish its move to the trash; raises Refused.

        Safety: librbd says "not found" of a part of a disk too, and with its record nobody would find it again.
        A move is finished only when its record in the trash is there, and while the volume's is unchanged.
        """
        node, record = self._node, volume.ok
        if record.uuid not in await node.storage.disks():
            return
        entry = await node.store.get(node.keys.trash(record.uuid))
        going = seen(Trashed, entry) if entry is not None else None
        if going is None or going.record is None:
            raise Refused(
                "the storage lists it but cannot read it: its record stays, and the removal is retried"
            )
        if not await node.commit(disk_life.trash(node.keys, node.session.me, volume, going.record, going)):
            raise Refused("its record changed as it was to be moved: it is checked again")
        mark, unmarked = node.mark("disk", record.uuid), not record.cluster_id
        await node.storage.delete_disk(record.uuid, record.trash_retention_s, mark, unmarked=unmarked)

    async def _going(self, record: Volume, ident: str, cluster_id: str) -> Trashed:
        node, counted = self._node, await self._counted()
        return Trashed(
            uuid=record.uuid,
            project=record.project,
            vm=record.vm,
            vm_uuid=record.vm_uuid,
            image_uuid=record.image_uuid,
            size_bytes=record.size_bytes,
            ident=ident,
            cluster_id=cluster_id,
            at=node.clock.stamp(),
            until_ms=node.clock.ms() + record.trash_retention_s * 1000,
            retention_s=record.trash_retention_s,
            counted_s=counted.ok.seconds if counted is not None else 0.0,
            by=node.name,
        )

    # --- the second clock

    async def _counted(self) -> Seen[Counted] | None:
        entry = await self._node.store.get(self._node.keys.counted())
        found = seen(Counted, entry) if entry is not None else None
        if found is not None and found.record is None:
            raise Refused(f"the time that was counted cannot be read: {found.why}")
        return found

    async def count(self) -> float:
        """Add the time since this node saw the number last; answers all that was counted.

        Safety: by a clock that nobody sets, and never more than went by: an interval begins when this node has
        seen the number, and counts only if that is still the number.
        """
        node, now_s = self._node, asyncio.get_running_loop().time()
        found = await self._counted()
        seconds = found.ok.seconds if found is not None else 0.0
        revision, since_s = self._counting
        if revision != mod_of(found):
            self._counting = mod_of(found), now_s
            return seconds
        if not await node.commit(disk_life.count(node.keys, node.session.me, found, now_s - since_s)):
            return seconds
        mine = await self._counted()
        if mine is not None and mine.ok.by == node.name:
            self._counting = mine.mod, now_s
        return seconds + now_s - since_s

    # --- out of the trash for good

    async def trash(self) -> None:
        """Remove disks for good whose retention is over."""
        node = self._node
        listed = await node.store.list(node.keys.prefix(Kind.TRASH))
        if not listed.entries:
            return
        counted_s, removed, silent = await self.count(), 0, 0
        for entry in listed.entries:
            if not node.session.ready or silent == SILENT:
                break
            found = seen(Trashed, entry)
            what = f"deleted disk {entry.key.rpartition('/')[2]}"
            try:
                gone = await self._purge(found, counted_s)
            except (Refused, Unavailable) as error:
                self.stuck.note(what, str(error))
                silent = silent + 1 if isinstance(error, Unavailable) else 0
                continue
            silent, removed = 0, removed + gone
            self.stuck.clear(what)
        if removed:
            log.info("trash_purged", removed=removed, node=node.name)

    async def _purge(self, found: Seen[Trashed], counted_s: float) -> bool:
        node = self._node
        if found.record is None:
            raise Refused(f"its record cannot be read: {found.why}")
        record = found.record
        if counted_s < record.counted_s:
            # The number was lost, or etcd restored: its retention begins once more.
            await node.commit(
                Transaction(
                    name="recount",
                    guards=(
                        unchanged(node.keys.trash(record.uuid), found),
                        in_session(node.keys, node.session.me),
                    ),
                    effects=(Put(node.keys.trash(record.uuid), encode(replace(record, counted_s=counted_s))),),
                )
            )
            return False
        left_s = record.counted_s + record.retention_s - counted_s
        early_s = record.until_ms / 1000 - node.clock.ms() / 1000
        if left_s > 0 or early_s > 0:
            if left_s < -DAY_S:
                raise Refused(
                    f"by the clock of {record.by} its retention ends at {node.clock.stamp(early_s)}, by that "
                    f"of {node.name} in {early_s:.0f} s, and it ended {-left_s:.0f} s ago: set the clocks right"
                )
            return False
        if await self.used(record.uuid):
            return False  # its VM takes it out when it starts
        gone = await node.storage.purge_disk(record.uuid, record.ident, node.mark_of(record))
        owner = f"{record.project}/{record.vm}"
        extra = node.event("volume.purged", record.uuid, f"disk of {owner}, by {record.by}") if gone else ()
        await node.commit(disk_life.forget_trash(node.keys, node.session.me, found, extra))
        return gone

    # --- images

    async def imports(self) -> None:
        """Remove what importers that died have left: what the record of an import names, and no image.

        Safety: the imports are listed first and the images after them; an import writes both at once.
        """
        node = self._node
        begun = await node.store.list(node.keys.prefix(Kind.IMPORT))
        if not begun.entries:
            return
        images = [seen(Image, entry) for entry in (await node.store.list(node.keys.prefix(Kind.IMAGE))).entries]
        if any(image.record is None for image in images):
            return  # an unreadable record may name any of them
        named = {image.ok.uuid for image in images}
        for entry in begun.entries:
            found = seen(Import, entry)
            # Safety: after a restore it may be an image that was finished after the backup was made.
            if found.record is None or found.record.generation != node.world.generation:
                continue
            uuid = found.record.uuid
            if uuid not in named and node.session.ready:
                await self._each(f"half an image {uuid}", partial(self._drop_import, found))

    async def _drop_import(self, found: Seen[Import]) -> None:
        node, record = self._node, found.ok
        mark = replace(node.mark("image", record.uuid), cluster=record.cluster_id)
        await node.storage.delete_image(record.uuid, mark, unmarked=False)
        key = node.keys.import_of(record.uuid)
        guards = (unchanged(key, found), in_session(node.keys, node.session.me))
        await node.commit(Transaction(name="forget_import", guards=guards, effects=(Delete(key),)))
        log.info("image_remains_removed", image=record.uuid, node=node.name)

    async def images(self) -> None:
        """Finish deletions whose caller died: the record says ``deleting``, the image may be gone or not."""
        node = self._node
        for name, found in list(node.world.images()):
            if found.record is not None and found.record.state is ImageState.DELETING and node.session.ready:
                await self._each(f"image {name}", partial(self._drop_image, name, found))

    async def _drop_image(self, name: str, found: Seen[Image]) -> None:
        node, uuid = self._node, found.ok.uuid
        await node.storage.delete_image(uuid, node.mark("image", uuid))
        key = node.keys.image(name)
        guards = (unchanged(key, found),)
        await node.commit(Transaction(name="forget_image", guards=guards, effects=(Delete(key),)))

    async def _each(self, what: str, work: Callable[[], Awaitable[None]]) -> None:
        """One object, which keeps no other from its turn."""
        try:
            await work()
        except (Refused, Unavailable) as error:
            self.stuck.note(what, str(error))
        else:
            self.stuck.clear(what)
