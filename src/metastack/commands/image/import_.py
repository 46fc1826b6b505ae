"""Images: bring one in. (Taking one away: :mod:`metastack.commands.image.delete`.)

Owns: ``config/images`` and what belongs to it in the storage. Refuses: deciding formats (the storage does).
Rule: the record is there before the first byte and after the last one is gone. So an object in the storage has
a record, or is rubbish that anybody may remove. While importing, the record hangs on a lease that this process
keeps alive. Should the process die, the record goes and the agents remove the rest. A second, durable record
(``imports/UUID``) and the mark on the image prove that the rest is ours.
"""

from __future__ import annotations

import asyncio
import os
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import uuid4

from msgspec.structs import replace

from metastack.core.model import Generation, Image, ImageState, Import
from metastack.core.state.cluster_state import Seen
from metastack.core.state.codec import encode
from metastack.core.transaction import Delete, Guard, Lease, Put
from metastack.ports import DiskFormat, LeaseGone, Progress, Storage, Unavailable

from .. import names
from ..ownership_marks import mark_of
from ..problem import Code, Problem, conflict, from_storage
from ..request import Cluster, Plan, Request, Unchanged, commit

IMPORT_LEASE_S = 15
OURS = re.compile(r"/proc/self/fd/[0-9]+")
CLEANUP_S = 60.0
"""How long tidying up after a failed import may take, seconds."""


async def import_image(
    cluster: Cluster,
    storage: Storage,
    request: Request,
    name: str,
    path: str,
    fmt: DiskFormat | None = None,
    source: str = "",
    progress: Progress | None = None,
    sha256: str = "",
) -> Image:
    """Copy a local file into the storage under a name; raises Problem, and then leaves nothing behind.

    ``sha256``: of the file, as it must be; empty: whatever it is.
    """
    names.name("image", name)
    names.reason(request.reason)
    object, key, uuid = f"image {name}", cluster.keys.image(name), str(uuid4())
    record = Image(
        name=name,
        uuid=uuid,
        state=ImageState.IMPORTING,
        source=source or os.path.basename(path),
        created=request.at,
        by=request.by,
        importer=f"{socket.gethostname()}:{os.getpid()}",
    )
    mark, generation = (
        await mark_of(cluster, "image", uuid),
        await cluster.read(Generation, cluster.keys.generation()),
    )
    begun = Import(
        uuid=uuid,
        name=name,
        generation=generation.record.generation
        if generation is not None and generation.record is not None
        else 0,
        cluster_id=mark.cluster,
        at=request.at,
        by=request.by,
    )
    async with _lease(cluster, object) as lease:

        async def announce() -> Plan[None]:
            taken = await cluster.read(Image, key)
            if taken is not None:
                raise _taken(object, taken)
            return Plan(
                guards=(Guard(key, "mod", 0),),
                effects=(
                    Put(key, encode(record), leased=True),
                    Put(cluster.keys.import_of(uuid), encode(begun)),
                ),
                what="image.import",
                object=object,
                message=f"from {record.source}",
                answer=None,
                lease=lease.id,
            )

        await commit(cluster, request, announce, "begin")
        try:
            info = await storage.import_image(uuid, path, fmt, progress, mark=mark)
            if sha256 and info.sha256 != sha256:
                raise Problem(
                    Code.FAILED,
                    object,
                    f"{record.source} has the sha256 {info.sha256}, not {sha256}: not imported",
                    "download it again, or compare with the checksum of its publisher",
                )
            ready = replace(
                record,
                state=ImageState.READY,
                format=info.format.value,
                size_bytes=info.size_bytes,
                sha256=info.sha256,
                importer="",
            )
            return await commit(cluster, request.later(), lambda: _finish(cluster, ready), "end")
        except BaseException as error:
            await _tidy(cluster, storage, request, record)
            if isinstance(error, Problem) or not isinstance(error, Exception):
                raise
            problem = from_storage(error, object)
            # A download is a file without a name; qemu-img sees it under another descriptor than we do.
            problem.message = OURS.sub(lambda _: record.source, problem.message.replace(path, record.source))
            raise problem from error


async def _finish(cluster: Cluster, ready: Image) -> Plan[Image]:
    """Put the record for good: the put without a lease takes it off the lease."""
    object, key = f"image {ready.name}", cluster.keys.image(ready.name)
    found = await cluster.read(Image, key)
    if found is None or found.record is None or found.record.uuid != ready.uuid:
        raise Problem(
            Code.FAILED, object, "the import's lease expired, and its record with it", "import it again"
        )
    return Plan(
        guards=(Guard(key, "mod", found.mod),),
        effects=(Put(key, encode(ready)), Delete(cluster.keys.import_of(ready.uuid))),
        what="image.ready",
        object=object,
        message=f"{ready.size_bytes} bytes, sha256 {ready.sha256}",
        answer=ready,
    )


def _taken(object: str, found: Seen[Image]) -> Problem:
    image = found.record
    if image is not None and image.state is ImageState.IMPORTING:
        return conflict(object, f"is being imported by {image.by} ({image.importer})", "wait for it")
    if image is not None and image.state is ImageState.DELETING:
        why = f": {image.message}" if image.message else ""
        again = f"choose another name, or `metastack image delete {object[6:]} --purge`"
        return conflict(object, f"is being deleted{why}", again)
    return conflict(object, "exists already", f"choose another name, or `metastack image delete {object[6:]}`")


async def _tidy(cluster: Cluster, storage: Storage, request: Request, record: Image) -> None:
    """Remove what an import left, even while being cancelled; what fails here the agents do later."""
    task = asyncio.current_task()
    while task is not None and task.cancelling():
        task.uncancel()
    object, key = f"image {record.name}", cluster.keys.image(record.name)

    async def forget() -> Plan[None] | Unchanged[None]:
        found = await cluster.read(Image, key)
        if found is None or found.record is None or found.record.uuid != record.uuid:
            return Unchanged(None)
        return Plan(
            guards=(Guard(key, "mod", found.mod),),
            effects=(Delete(key), Delete(cluster.keys.import_of(record.uuid))),
            what="image.failed",
            object=object,
            answer=None,
        )

    try:
        async with asyncio.timeout(CLEANUP_S):
            # Safety: a cancelled import may still be writing in its thread; nothing is removed before it ended.
            await storage.quiesce()
            await storage.delete_image(record.uuid, await mark_of(cluster, "image", record.uuid))
            await commit(cluster, request.later(), forget, "failed")
    except Exception:  # the failure that brought us here is the one to tell
        return


@asynccontextmanager
async def _lease(cluster: Cluster, object: str) -> AsyncIterator[Lease]:
    """A lease kept alive as long as the body runs; its loss ends the body with a Problem."""
    lease = await cluster.store.grant(IMPORT_LEASE_S)
    try:
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(_keep(cluster, lease, object))
            yield lease
            keeper.cancel()
    except BaseExceptionGroup as errors:
        raise _first(errors) from None
    finally:
        try:
            async with asyncio.timeout(5.0):
                await cluster.store.revoke(lease)
        except (Unavailable, TimeoutError):
            pass  # it ends by itself


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that tells most: a problem if there is one."""
    found: list[BaseException] = []
    queue: list[BaseException] = [group]
    while queue:
        error = queue.pop(0)
        if isinstance(error, BaseExceptionGroup):
            queue.extend(error.exceptions)
        else:
            found.append(error)
    return next((error for error in found if isinstance(error, Problem)), found[0])


async def _keep(cluster: Cluster, lease: Lease, object: str) -> None:
    """Renew until cancelled."""
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(IMPORT_LEASE_S / 4)
        try:
            lease = await cluster.store.renew(lease)
        except LeaseGone:
            raise Problem(Code.FAILED, object, "the import's lease expired", "import it again") from None
        except Unavailable as error:
            if loop.time() > lease.deadline_s:
                raise Problem(
                    Code.UNREACHABLE, object, f"etcd was unreachable for too long: {error}", "import it again"
                ) from None
