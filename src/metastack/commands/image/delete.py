"""Images: take one away.

Owns: the mark ``deleting`` in ``config/images``, and what stands in the way of the deletion.
Refuses: an image that a VM uses; deleting what nobody said can go.
Rule: the mark is for good. From it on every node deletes the image too, so a command that cannot finish, or
meets another one at it, never takes it back: the record would promise an image that may be gone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec import Struct
from msgspec.structs import replace

from metastack.core.model import Image, ImageState, Trashed, VmSpec
from metastack.core.state.cluster_state import mod_of, seen
from metastack.core.state.codec import encode
from metastack.core.state.keys import Kind
from metastack.core.transaction import Delete, Guard, Put
from metastack.ports import InUse, Refused, Storage, Unavailable
from metastack.ports.ownership import same_object

from .. import names
from ..ownership_marks import mark_in_trash, mark_of
from ..problem import Code, Problem, conflict, from_storage, not_found
from ..request import Cluster, Plan, Request, Unchanged, commit, readable, rfc3339

PAUSE_S = (0.2, 2.0)
"""Between two tries: doubling from the one to the other. Somebody else has the image open only for moments."""
TRIES = 4
"""How often the storage may fail before it is told: losing a race against a node looks like a failure too."""


class Deletion(Struct, frozen=True, kw_only=True):
    """How far a deletion got."""

    image: Image
    gone: bool
    disks: int = 0
    """Deleted disks in the trash that still need it; it goes with the last of them."""
    until: str = ""
    """When the last one's retention ends, RFC 3339 UTC."""

    @property
    def message(self) -> str:
        return "deleted" if self.gone else _waits_for(self.disks, self.until)


def _waits_for(disks: int, until: str) -> str:
    many = (
        "1 deleted disk in the trash needs it" if disks == 1 else f"{disks} deleted disks in the trash need it"
    )
    return f"{many} until {until}; the image goes after {'it' if disks == 1 else 'them'}"


async def delete_image(
    cluster: Cluster,
    storage: Storage,
    request: Request,
    name: str,
    *,
    purge: bool = False,
    wait: bool = False,
    timeout_s: float = 120.0,
    progress: Callable[[str], None] | None = None,
) -> Deletion:
    """Remove an image that no VM uses.

    Deleted disks in the trash keep it: then it stays marked and the nodes remove it with the last of them.
    ``purge`` removes those disks now, ``wait`` waits for them.
    """
    names.name("image", name)
    names.reason(request.reason)
    image = await _mark(cluster, request, name)
    removal = _Removal(cluster, storage, request, image, progress or (lambda _text: None))
    try:
        async with asyncio.timeout(timeout_s):
            found = await removal.run(purge, wait)
    except TimeoutError:
        raise Problem(
            Code.TIMEOUT,
            removal.object,
            f"is marked for deletion but not gone after {timeout_s:g} s"
            + (f": {removal.why}" if removal.why else ""),
            "the nodes continue the deletion; `metastack image list` shows the image until it is deleted",
        ) from None
    await removal.write_down(found)
    return found


async def _mark(cluster: Cluster, request: Request, name: str) -> Image:
    """The record says ``deleting`` from here on; answers it."""
    object, key, pinned = f"image {name}", cluster.keys.image(name), ""

    async def mark() -> Plan[Image] | Unchanged[Image]:
        nonlocal pinned
        found = await cluster.read(Image, key)
        if found is None:
            raise not_found(object, "`metastack image list` shows the images")
        image = readable(found, object)
        if image.state is ImageState.IMPORTING:
            raise conflict(object, f"is being imported by {image.by} ({image.importer})", "wait for it")
        if pinned and image.uuid != pinned:
            raise conflict(object, "was deleted and imported again meanwhile")
        pinned = image.uuid
        if image.state is ImageState.DELETING:
            return Unchanged(image)
        await _refuse_users(cluster, object, image.uuid)
        marked = replace(image, state=ImageState.DELETING, message="")
        return Plan(
            guards=(Guard(key, "mod", mod_of(found)),),
            effects=(Put(key, encode(marked)),),
            what="image.delete",
            object=object,
            answer=marked,
        )

    image = await commit(cluster, request, mark, "begin")
    try:
        # Safety: from the mark on no VM can be created from it; whoever was faster is seen by this look.
        await _refuse_users(cluster, object, image.uuid)
    except Problem as error:
        why = str(error)
        await commit(cluster, request.later(), lambda: _put_back(cluster, key, image, why), "kept")
        raise
    return image


async def _put_back(cluster: Cluster, key: str, image: Image, why: str) -> Plan[None] | Unchanged[None]:
    """A VM came between: its disk is made from the image, which the storage therefore keeps."""
    found = await cluster.read(Image, key)
    if found is None or found.record is None or found.record.uuid != image.uuid:
        return Unchanged(None)
    kept = replace(image, state=ImageState.READY, message=f"not deleted: {why}"[:300])
    return Plan(
        guards=(Guard(key, "mod", found.mod),),
        effects=(Put(key, encode(kept)),),
        what="image.kept",
        object=f"image {image.name}",
        message=kept.message,
        answer=None,
    )


async def _refuse_users(cluster: Cluster, object: str, uuid: str) -> None:
    snapshot = await cluster.store.list(cluster.keys.prefix(Kind.VM_SPEC))
    users = [
        str(spec.id)
        for entry in snapshot.entries
        if (spec := seen(VmSpec, entry).record) is not None and spec.image_uuid == uuid
    ]
    if users:
        shown = ", ".join(sorted(users)[:5]) + (f" and {len(users) - 5} more" if len(users) > 5 else "")
        raise conflict(object, f"is used by {shown}", "delete these VMs first")


class _Removal:
    """Removes a marked image from the storage, beside nodes that do the same."""

    def __init__(
        self,
        cluster: Cluster,
        storage: Storage,
        request: Request,
        image: Image,
        progress: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._storage = storage
        self._request = request
        self._image = image
        self._progress = progress
        self.object = f"image {image.name}"
        self.why = ""
        """What stood in the way the last time."""

    async def run(self, purge: bool, wait: bool) -> Deletion:
        pause_s, failed = PAUSE_S[0], 0
        while True:
            try:
                uuid = self._image.uuid
                await self._storage.delete_image(uuid, await mark_of(self._cluster, "image", uuid))
                return Deletion(image=self._image, gone=True)
            except InUse as error:
                found = await self._in_the_trash()
                self._tell(str(error) if found is None else found.message)
                if found is not None and purge:
                    try:
                        await self._empty_trash()
                    except InUse as error:
                        self._tell(str(error))  # a moment later, perhaps
                    except (Refused, Unavailable) as error:
                        raise self._marked(error) from error
                elif found is not None and not wait:
                    return found
            except (Unavailable, Refused) as error:
                self._tell(str(error))
                failed += 1
                if failed == TRIES or not isinstance(error, Unavailable):
                    raise self._marked(error) from error
            # Again, also when others have said that it is gone: Ceph takes an image out of its directory to
            # remove it, and puts it back when somebody has it open. Who looked in between saw nothing.
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, PAUSE_S[1])

    async def _empty_trash(self) -> None:
        """Remove for good what nodes of this cluster put there; Refused when something else lies there."""
        cluster, kept = self._cluster, []
        listed = await cluster.store.list(cluster.keys.prefix(Kind.VM_SPEC), cluster.keys.prefix(Kind.CLAIM))
        for disk in await self._storage.trashed(self._image.uuid):
            key = cluster.keys.trash(disk.uuid)
            found = await cluster.read(Trashed, key)
            if found is None or found.record is None or not same_object(found.record.ident, disk.ident):
                kept.append(
                    f"disk {disk.uuid} ({disk.ident}) is in the trash without a record: an old release or a "
                    "person put it there; remove it by hand"
                )
            elif any(disk.uuid.encode() in entry.value for entry in listed.entries):
                kept.append(f"disk {disk.uuid} in the trash belongs to a VM: start the VM, which restores it")
            else:
                await self._storage.purge_disk(disk.uuid, disk.ident, mark_in_trash(found.record), early=True)
                await self._forget(disk.uuid, key, found.mod)
        if kept:
            raise Refused("; ".join(kept))

    async def _forget(self, uuid: str, key: str, mod: int) -> None:
        async def gone() -> Plan[None] | Unchanged[None]:
            found = await self._cluster.read(Trashed, key)
            if found is None or found.mod != mod:
                return Unchanged(None)
            return Plan(
                guards=(Guard(key, "mod", mod),),
                effects=(Delete(key),),
                what="volume.purged",
                object=uuid,
                message=f"with {self.object}",
                answer=None,
            )

        await commit(self._cluster, self._request.later(), gone, f"purged-{uuid[:8]}")

    def _tell(self, why: str) -> None:
        if why != self.why:
            self.why = why
            self._progress(why)

    def _marked(self, error: Exception) -> Problem:
        told = from_storage(error, self.object)
        return Problem(
            told.code,
            self.object,
            f"is marked for deletion, and the nodes continue it; this command failed: {told.message}",
            told.hint,
        )

    async def _in_the_trash(self) -> Deletion | None:
        disks = await self._storage.trashed(self._image.uuid)
        if not disks:
            return None
        left_s = max(disk.left_s for disk in disks)
        until = rfc3339(self._request.later().at_ms + round(left_s * 1000))[:19] + "Z"
        return Deletion(image=self._image, gone=False, disks=len(disks), until=until)

    async def write_down(self, done: Deletion) -> None:
        """The record goes with the image, or tells what it waits for."""
        key = self._cluster.keys.image(self._image.name)

        async def write() -> Plan[None] | Unchanged[None]:
            found = await self._cluster.read(Image, key)
            if found is None or found.record is None or found.record.uuid != self._image.uuid:
                return Unchanged(None)  # a node was faster
            waiting = replace(found.record, message=done.message)
            return Plan(
                guards=(Guard(key, "mod", found.mod),),
                effects=(Delete(key) if done.gone else Put(key, encode(waiting)),),
                what="image.deleted" if done.gone else "image.delete-waits",
                object=self.object,
                message="" if done.gone else done.message,
                answer=None,
            )

        await commit(self._cluster, self._request.later(), write, "end")
