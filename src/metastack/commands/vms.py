"""What a person can ask of a VM: create, power, pause, label, delete.

Owns: every write to ``desired/vms``. Refuses: waiting (:mod:`metastack.commands.wait`) and deciding where.
Rule: spec, history and event are one transaction guarded by the spec's revision; a command that began with
one VM never touches another of the same name made anew meanwhile (the UUID is compared on every look).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from uuid import uuid4

from msgspec import Struct
from msgspec.structs import replace

from metastack.core.change import Delete, Guard, Put
from metastack.core.codec import encode
from metastack.core.keys import prefix_end
from metastack.core.model import (
    Claim,
    ClusterConfig,
    Halt,
    Image,
    ImageState,
    Nic,
    NodeFacts,
    Placement,
    Power,
    Project,
    VmId,
    VmSpec,
)
from metastack.core.world import Seen, mod_of, seen

from . import names
from .deed import Cluster, Deed, Kept, Plan, commit, readable
from .problem import conflict, not_found

DEFAULT_MEMORY_MIB = 512


class NewVm(Struct, frozen=True, kw_only=True):
    """What ``vm create`` was told."""

    vm: VmId
    image: str
    cpus: int = 1
    memory_mib: int = DEFAULT_MEMORY_MIB
    disk_bytes: int = 0
    """0: as large as the image."""
    node: str = ""
    """Pin to this node."""
    network: str = ""
    """Bridge; empty: the configuration's default; ``none``: no NIC."""
    labels: dict[str, str] = {}
    off: bool = False


class Changed(Struct, frozen=True, kw_only=True):
    """The spec as it is now, and whether this command wrote it."""

    spec: VmSpec
    changed: bool = True


class _Edit(Struct, frozen=True, kw_only=True):
    """A new spec, with guards on whatever else the decision looked at."""

    spec: VmSpec
    guards: tuple[Guard, ...] = ()
    message: str = ""


def label_of(vm: VmId) -> str:
    """How problems and events call a VM."""
    return f"vm {vm}"


def new_mac() -> str:
    """A random locally administered unicast address."""
    return ":".join(f"{byte:02x}" for byte in (0x02, *secrets.token_bytes(5)))


# ---------------------------------------------------------------------------------------------------------


async def create_vm(cluster: Cluster, deed: Deed, new: NewVm) -> Changed:
    """Write the spec of a new VM; raises Problem before anything is written when a field is wrong."""
    object, keys = label_of(new.vm), cluster.keys
    names.cpus(new.cpus)
    names.memory_mib(new.memory_mib)
    names.bounded_labels(new.labels)
    names.reason(deed.reason)
    for field, value in (("image", new.image), ("node", new.node)):
        if value or field == "image":
            names.name(field, value)
    if new.network not in ("", "none"):
        names.bridge(new.network)
    ids = (str(uuid4()), str(uuid4()), new_mac())

    async def look() -> Plan[Changed]:
        image, taken, config, project, node = await asyncio.gather(
            cluster.read(Image, keys.image(new.image)),
            cluster.store.get(keys.vm_spec(new.vm)),
            cluster.config(),
            _project(cluster, new.vm.project),
            cluster.read(NodeFacts, keys.node_facts(new.node)) if new.node else _nothing(),
        )
        if taken is not None:
            raise conflict(object, "exists already", f"`metastack vm show {new.vm}`, or choose another name")
        if new.node and node is None:
            raise not_found(f"node {new.node}", "`metastack node list` shows the nodes")
        ready = _usable(image, new.image)
        disk = names.disk_bytes(
            new.disk_bytes or -(-ready.size_bytes // 512) * 512, ready.size_bytes, new.image
        )
        spec = VmSpec(
            project=new.vm.project,
            name=new.vm.name,
            uuid=ids[0],
            image=new.image,
            image_uuid=ready.uuid,
            volume_uuid=ids[1],
            cpus=new.cpus,
            memory_mib=new.memory_mib,
            disk_bytes=disk,
            power=Power.OFF if new.off else Power.ON,
            nics=_nics(new.network or config.default_network or "none", ids[2]),
            labels=new.labels,
            placement=Placement(node=new.node),
            created=deed.at,
            by=deed.by,
            reason=deed.reason,
            request_id=deed.request_id,
        )
        # Safety: the image's revision is a guard, so an image that is being deleted never gets a new user;
        # `image delete` marks the record first and looks for users after that.
        guards = (
            Guard(keys.vm_spec(new.vm), "mod", 0),
            Guard(keys.image(new.image), "mod", mod_of(image)),
            *((Guard(keys.project(new.vm.project), "mod", mod_of(project)),) if project else ()),
        )
        return Plan(
            guards=guards,
            effects=_spec_effects(cluster, config, spec, 1),
            what="vm.create",
            object=object,
            message=f"image {new.image}, {new.cpus} vCPU, {new.memory_mib} MiB",
            answer=Changed(spec=spec),
        )

    return await commit(cluster, deed, look)


async def _nothing() -> None:
    return None


async def _project(cluster: Cluster, name: str) -> Seen[Project] | None:
    """The project's record; ``default`` needs none."""
    found = await cluster.read(Project, cluster.keys.project(name))
    if found is None and name != names.DEFAULT_PROJECT:
        raise not_found(f"project {name}", f"`metastack project create {name}` makes it")
    return found


def _usable(found: Seen[Image] | None, name: str) -> Image:
    object = f"image {name}"
    if found is None:
        raise not_found(object, "`metastack image list` shows the images")
    image = readable(found, object)
    if image.state is not ImageState.READY:
        raise conflict(
            object, f"is {image.state.value}", "wait until it is ready: `metastack image list --watch`"
        )
    return image


def _nics(network: str, mac: str) -> tuple[Nic, ...]:
    return () if network == "none" else (Nic(bridge=network, mac=mac),)


def _spec_effects(
    cluster: Cluster, config: ClusterConfig, spec: VmSpec, version: int
) -> tuple[Put | Delete, ...]:
    """The spec, its copy in the history, and the end of what the history keeps."""
    keys, value = cluster.keys, encode(spec)
    effects: list[Put | Delete] = [
        Put(keys.vm_spec(spec.id), value),
        Put(keys.history(spec.id, version), value),
    ]
    oldest = version - config.history_versions + 1
    if oldest > 1:
        effects.append(Delete(keys.history_prefix(spec.id), keys.history(spec.id, oldest)))
    return tuple(effects)


# ---------------------------------------------------------------------------------------------------------


async def _edit(
    cluster: Cluster,
    deed: Deed,
    vm: VmId,
    what: str,
    edit: Callable[[VmSpec], Awaitable[_Edit | None]],
    uuid: str = "",
) -> Changed:
    """Change a spec that exists; ``edit`` answers None when it is as wished already."""
    object, key, pinned = label_of(vm), cluster.keys.vm_spec(vm), uuid
    names.reason(deed.reason)

    async def look() -> Plan[Changed] | Kept[Changed]:
        nonlocal pinned
        entry, config = await asyncio.gather(cluster.store.get(key), cluster.config())
        if entry is None:
            if pinned:
                raise conflict(object, "was deleted meanwhile")
            raise not_found(object, "`metastack vm list` shows the VMs")
        spec = readable(seen(VmSpec, entry), object)
        if pinned and spec.uuid != pinned:
            raise conflict(object, "was deleted and made anew meanwhile", f"`metastack vm show {vm}`")
        pinned = spec.uuid
        edited = await edit(spec)
        if edited is None:
            return Kept(Changed(spec=spec, changed=False))
        after = replace(edited.spec, by=deed.by, reason=deed.reason, request_id=deed.request_id)
        return Plan(
            guards=(Guard(key, "mod", entry.mod_revision), *edited.guards),
            effects=_spec_effects(cluster, config, after, entry.version + 1),
            what=what,
            object=object,
            message=edited.message,
            answer=Changed(spec=after),
        )

    return await commit(cluster, deed, look)


async def start_vm(cluster: Cluster, deed: Deed, vm: VmId) -> Changed:
    """Switch on; a guest that switched itself off runs again. Running already: nothing to write."""

    async def edit(spec: VmSpec) -> _Edit | None:
        if spec.power is Power.ON and not await _halted(cluster, spec):
            return None
        # No guard on the halt: the next run voids every halt of this one, also one that comes meanwhile.
        return _Edit(spec=replace(spec, power=Power.ON, run=spec.run + 1, force=False, paused_epoch=0))

    return await _edit(cluster, deed, vm, "vm.start", edit)


async def stop_vm(cluster: Cluster, deed: Deed, vm: VmId, force: bool = False) -> Changed:
    """Switch off: ask the guest, or with ``force`` pull the plug."""

    async def edit(spec: VmSpec) -> _Edit | None:
        if spec.power is Power.OFF and (spec.force or not force):
            return None
        after = replace(spec, power=Power.OFF, force=force, paused_epoch=0)
        return _Edit(spec=after, message="by force" if force else "")

    return await _edit(cluster, deed, vm, "vm.stop", edit)


async def restart_vm(cluster: Cluster, deed: Deed, vm: VmId, force: bool = False) -> Changed:
    """Stop what runs and start afresh; a VM that is off is started."""

    async def edit(spec: VmSpec) -> _Edit | None:
        after = replace(spec, power=Power.ON, run=spec.run + 1, force=force, paused_epoch=0)
        return _Edit(spec=after, message="by force" if force else "")

    return await _edit(cluster, deed, vm, "vm.restart", edit)


async def pause_vm(cluster: Cluster, deed: Deed, vm: VmId) -> Changed:
    """Freeze the guest where it runs. It stays so for this claim: after a takeover it runs."""
    object, keys = label_of(vm), cluster.keys

    async def edit(spec: VmSpec) -> _Edit | None:
        claim, off = await asyncio.gather(cluster.read(Claim, keys.claim(vm)), _halted(cluster, spec))
        if spec.power is Power.OFF or off or claim is None:
            raise conflict(object, "does not run", f"start it first: `metastack vm start {vm}`")
        held = readable(claim, object)
        if held.uuid != spec.uuid:
            raise conflict(object, f"does not run yet: {held.node} removes the earlier VM of this name")
        if spec.paused_epoch == held.epoch:
            return None
        after = replace(spec, paused_epoch=held.epoch)
        return _Edit(spec=after, guards=(Guard(keys.claim(vm), "mod", claim.mod),))

    return await _edit(cluster, deed, vm, "vm.pause", edit)


async def resume_vm(cluster: Cluster, deed: Deed, vm: VmId) -> Changed:
    """Let a paused guest run on."""

    async def edit(spec: VmSpec) -> _Edit | None:
        if spec.power is Power.OFF or await _halted(cluster, spec):
            raise conflict(label_of(vm), "is stopped, not paused", f"start it: `metastack vm start {vm}`")
        return _Edit(spec=replace(spec, paused_epoch=0)) if spec.paused_epoch else None

    return await _edit(cluster, deed, vm, "vm.resume", edit)


async def label_vm(cluster: Cluster, deed: Deed, vm: VmId, put: dict[str, str], drop: set[str]) -> Changed:
    """Set and remove labels; the others stay, also those that somebody else sets at this moment."""

    async def edit(spec: VmSpec) -> _Edit | None:
        kept = {key: value for key, value in spec.labels.items() if key not in drop}
        after = names.bounded_labels({**kept, **put})
        return _Edit(spec=replace(spec, labels=after)) if after != spec.labels else None

    return await _edit(cluster, deed, vm, "vm.label", edit)


async def _halted(cluster: Cluster, spec: VmSpec) -> bool:
    """Whether the guest switched itself off in this run."""
    found = await cluster.read(Halt, cluster.keys.halt(spec.id))
    halt = None if found is None else readable(found, label_of(spec.id))
    return halt is not None and halt.uuid == spec.uuid and halt.run >= spec.run


async def delete_vm(cluster: Cluster, deed: Deed, vm: VmId, uuid: str = "") -> VmSpec | None:
    """Remove the desired entry; the nodes destroy what exists. Answers the spec, None if it was unreadable."""
    object, keys = label_of(vm), cluster.keys
    names.reason(deed.reason)

    async def look() -> Plan[VmSpec | None]:
        entry = await cluster.store.get(keys.vm_spec(vm))
        if entry is None:
            raise not_found(object, "`metastack vm list` shows the VMs")
        found = seen(VmSpec, entry)
        if uuid and found.record is not None and found.record.uuid != uuid:
            raise conflict(object, "was deleted and made anew meanwhile", f"`metastack vm show {vm}`")
        history = keys.history_prefix(vm)
        return Plan(
            guards=(Guard(keys.vm_spec(vm), "mod", entry.mod_revision),),
            effects=(Delete(keys.vm_spec(vm)), Delete(history, prefix_end(history).decode())),
            what="vm.delete",
            object=object,
            message=f"uuid {found.record.uuid}" if found.record else f"unreadable record: {found.why}",
            answer=found.record,
        )

    return await commit(cluster, deed, look)
