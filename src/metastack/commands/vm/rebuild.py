"""A VM whose disk is lost: have the next boot make it once more, from its image.

Owns: the one order to make a disk a second time. Refuses: giving it while the disk, or anything that could
bring it back, is still there.
Rule: no node makes a disk a second time by itself. Only a person says that what was on it is given up.
"""

from __future__ import annotations

from msgspec.structs import replace

from metastack.core.model import Image, ImageState, Phase, Trashed, VmId, VmSpec, VmStatus, Volume
from metastack.core.state.cluster_state import mod_of, seen
from metastack.core.state.codec import encode
from metastack.core.state.keys import Kind
from metastack.core.transaction import Guard, Put
from metastack.ports import Refused, Storage, Unavailable

from .. import names
from ..problem import conflict, from_storage
from ..request import Cluster, Request, readable
from .specs import Changed, Edit, edit_vm, label_of


def check_reason(vm: VmId, reason: str) -> None:
    """Raise Problem for a bad or missing reason, before a person is asked anything."""
    names.needed_reason(reason, label_of(vm), "rebuilding a disk")


async def rebuild_vm(cluster: Cluster, storage: Storage, request: Request, vm: VmId) -> Changed:
    """Say that the VM's lost disk is to be made from its image; the node that has the VM does it."""
    check_reason(vm, request.reason)

    async def edit(spec: VmSpec) -> Edit | None:
        key = cluster.keys.volume(spec.project, spec.volume_uuid)
        found = await cluster.read(Volume, key)
        if found is None:
            raise conflict(
                label_of(vm), "never had a disk: its first start creates it", f"`metastack vm start {vm}`"
            )
        volume = readable(found, label_of(vm))
        if (volume.project, volume.vm, volume.vm_uuid) != (spec.project, spec.name, spec.uuid):
            raise conflict(label_of(vm), f"has a disk that belongs to {volume.project}/{volume.vm}")
        if volume.made is False:
            return None
        await _refuse_running(cluster, spec)
        await _refuse_without_image(cluster, spec)
        await _refuse_there(cluster, storage, spec)
        return Edit(
            spec=spec,
            guards=(Guard(key, "mod", mod_of(found)),),
            effects=(Put(key, encode(replace(volume, made=False))),),
            message=f"disk {spec.volume_uuid} is recreated from image {spec.image}; its old content is lost",
        )

    return await edit_vm(cluster, request, vm, "vm.rebuild", edit)


async def _refuse_running(cluster: Cluster, spec: VmSpec) -> None:
    found = await cluster.read(VmStatus, cluster.keys.vm_status(spec.id))
    status = found.record if found is not None else None
    if status is not None and status.phase in (Phase.RUNNING, Phase.PAUSED, Phase.STOPPING):
        raise conflict(
            label_of(spec.id),
            f"is {status.phase.value} on {status.node}: its guest may still have the disk open",
            f"stop it first: `metastack vm stop {spec.id}`",
        )


async def _refuse_without_image(cluster: Cluster, spec: VmSpec) -> None:
    listed = await cluster.store.list(cluster.keys.prefix(Kind.IMAGE))
    images = [image for entry in listed.entries if (image := seen(Image, entry).record) is not None]
    if not any(image.uuid == spec.image_uuid and image.state is ImageState.READY for image in images):
        raise conflict(
            label_of(spec.id),
            f"was made from image {spec.image} ({spec.image_uuid}), which no longer exists",
            "create another VM from an image that `metastack image list` shows",
        )


async def _refuse_there(cluster: Cluster, storage: Storage, spec: VmSpec) -> None:
    object, uuid = label_of(spec.id), spec.volume_uuid
    try:
        there, lies = await storage.disk(uuid), [disk for disk in await storage.trash() if disk.uuid == uuid]
        missing = await storage.missing(uuid) if lies else ""
    except (Unavailable, Refused) as error:
        raise from_storage(error, object) from error
    if there is not None:
        raise conflict(object, f"has its disk {uuid}: no rebuild is needed")
    if not lies:
        return
    record = await cluster.read(Trashed, cluster.keys.trash(uuid))
    if record is not None:
        raise conflict(
            object,
            f"has its disk {uuid} in the trash: a start restores it",
            f"`metastack vm start {spec.id}`",
        )
    raise conflict(object, missing, "restore it, or remove it from the trash by hand")
