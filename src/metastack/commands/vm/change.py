"""What a person can ask of a VM that exists: power, pause, label, delete.

Owns: these writes to ``desired/vms``; the first one is :mod:`metastack.commands.vm.create`.
Refuses: waiting (:mod:`metastack.commands.vm.wait`) and deciding where.
Rule: spec, history and event are one transaction guarded by the spec's revision; a command that began with one
VM never touches a later VM of the same name (the UUID is compared on every look).
"""

from __future__ import annotations

import asyncio
from typing import Final

from msgspec.structs import replace

from metastack.core.model import Claim, Phase, Power, VmId, VmSpec, VmStatus
from metastack.core.state.cluster_state import seen
from metastack.core.state.keys import prefix_end
from metastack.core.transaction import Delete, Guard

from .. import names
from ..capacity.reserve import Admitted, admit
from ..problem import conflict, not_found
from ..request import Cluster, Plan, Request, commit, readable
from .create import NewVm, create_vm, create_vms
from .drift import refuse_drift
from .specs import Changed, Edit, edit_vm, halted, label_of

__all__ = [
    "Changed",
    "NewVm",
    "create_vm",
    "create_vms",
    "delete_vm",
    "label_of",
    "label_vm",
    "pause_vm",
    "restart_vm",
    "resume_vm",
    "start_vm",
    "stop_vm",
]

MOST_RUNS: Final = 1 << 52
"""No guest ran so often: whoever says so is not believed."""


async def start_vm(cluster: Cluster, request: Request, vm: VmId, ignore_spare: bool = False) -> Changed:
    """Switch on; a guest that switched itself off runs again, one that could not be started is tried at once.

    Running already: nothing to write.
    """

    async def edit(spec: VmSpec) -> Edit | None:
        if spec.power is Power.ON and not await halted(cluster, spec):
            # The same spec, written once more, is another version: nothing that failed before counts for it.
            failed = await _failed(cluster, spec)
            return Edit(spec=spec, message="retry at once, on any node") if failed else None
        # No guard on the halt: the next run voids every halt of this one, also one that comes meanwhile.
        after = replace(spec, power=Power.ON, run=spec.run + 1, force=False, paused_epoch=0)
        let_in = await admit(cluster, request, await cluster.config(), [after], ignore_spare)
        return Edit(spec=after, guards=let_in.guards, effects=let_in.effects)

    return await edit_vm(cluster, request, vm, "vm.start", edit)


async def _failed(cluster: Cluster, spec: VmSpec) -> bool:
    """Some node could not start it, and says so or is passed over for it."""
    keys = cluster.keys
    found = await cluster.read(VmStatus, keys.vm_status(spec.id))
    status = found.record if found is not None else None
    if status is not None and status.uuid == spec.uuid:
        return status.phase is Phase.FAILED
    return bool((await cluster.store.list(keys.penalty_prefix(spec.id))).entries)


async def stop_vm(
    cluster: Cluster, request: Request, vm: VmId, force: bool = False, discard_drift: bool = False
) -> Changed:
    """Switch off: ask the guest, or with ``force`` pull the plug.

    ``discard_drift``: also when it writes elsewhere than on its disk; the plug is pulled then.
    """
    await refuse_drift(cluster, vm, discard_drift)
    force = force or discard_drift

    async def edit(spec: VmSpec) -> Edit | None:
        if spec.power is Power.OFF and (spec.force or not force):
            return None
        after = replace(spec, power=Power.OFF, force=force, paused_epoch=0)
        return Edit(spec=after, message="by force" if force else "")

    return await edit_vm(cluster, request, vm, "vm.stop", edit)


async def restart_vm(
    cluster: Cluster,
    request: Request,
    vm: VmId,
    force: bool = False,
    ignore_spare: bool = False,
    discard_drift: bool = False,
) -> Changed:
    """Stop what runs and start afresh; a VM that is off is started. ``discard_drift`` as in :func:`stop_vm`."""
    await refuse_drift(cluster, vm, discard_drift)
    force = force or discard_drift

    async def edit(spec: VmSpec) -> Edit | None:
        run = await _next_run(cluster, spec)
        after = replace(spec, power=Power.ON, run=run, force=force, paused_epoch=0)
        let_in = Admitted()
        if spec.power is Power.OFF or await halted(cluster, spec):
            let_in = await admit(cluster, request, await cluster.config(), [after], ignore_spare)
        message = "by force" if force else ""
        return Edit(spec=after, message=message, guards=let_in.guards, effects=let_in.effects)

    return await edit_vm(cluster, request, vm, "vm.restart", edit)


async def _next_run(cluster: Cluster, spec: VmSpec) -> int:
    """Above the guest's too: after a restore of etcd the spec may be of before its last restart."""
    found = await cluster.read(VmStatus, cluster.keys.vm_status(spec.id))
    status = found.record if found is not None else None
    running = status.run if status is not None and status.uuid == spec.uuid and status.run < MOST_RUNS else 0
    return max(spec.run, running) + 1


async def pause_vm(cluster: Cluster, request: Request, vm: VmId) -> Changed:
    """Freeze the guest where it runs. It stays so for this claim: after a takeover it runs."""
    object, keys = label_of(vm), cluster.keys

    async def edit(spec: VmSpec) -> Edit | None:
        claim, off = await asyncio.gather(cluster.read(Claim, keys.claim(vm)), halted(cluster, spec))
        if spec.power is Power.OFF or off or claim is None:
            raise conflict(object, "does not run", f"start it first: `metastack vm start {vm}`")
        held = readable(claim, object)
        if held.uuid != spec.uuid:
            raise conflict(object, f"does not run yet: {held.node} removes an earlier VM of this name")
        if spec.paused_epoch == held.epoch:
            return None
        after = replace(spec, paused_epoch=held.epoch)
        return Edit(spec=after, guards=(Guard(keys.claim(vm), "mod", claim.mod),))

    return await edit_vm(cluster, request, vm, "vm.pause", edit)


async def resume_vm(cluster: Cluster, request: Request, vm: VmId) -> Changed:
    """Let a paused guest run on."""

    async def edit(spec: VmSpec) -> Edit | None:
        if spec.power is Power.OFF or await halted(cluster, spec):
            raise conflict(label_of(vm), "is stopped, not paused", f"start it: `metastack vm start {vm}`")
        return Edit(spec=replace(spec, paused_epoch=0)) if spec.paused_epoch else None

    return await edit_vm(cluster, request, vm, "vm.resume", edit)


async def label_vm(
    cluster: Cluster, request: Request, vm: VmId, put: dict[str, str], drop: set[str]
) -> Changed:
    """Set and remove labels; the others stay, also those that somebody else sets at this moment."""

    async def edit(spec: VmSpec) -> Edit | None:
        kept = {key: value for key, value in spec.labels.items() if key not in drop}
        after = names.bounded_labels({**kept, **put})
        return Edit(spec=replace(spec, labels=after)) if after != spec.labels else None

    return await edit_vm(cluster, request, vm, "vm.label", edit)


async def delete_vm(
    cluster: Cluster, request: Request, vm: VmId, uuid: str = "", discard_drift: bool = False
) -> VmSpec | None:
    """Remove the desired entry; the nodes destroy what exists. Answers the spec, None if it was unreadable."""
    object, keys = label_of(vm), cluster.keys
    names.reason(request.reason)
    await refuse_drift(cluster, vm, discard_drift)

    async def look() -> Plan[VmSpec | None]:
        entry = await cluster.store.get(keys.vm_spec(vm))
        if entry is None:
            raise not_found(object, "`metastack vm list` shows the VMs")
        found = seen(VmSpec, entry)
        if uuid and found.record is not None and found.record.uuid != uuid:
            raise conflict(object, "was deleted and created again meanwhile", f"`metastack vm show {vm}`")
        history = keys.history_prefix(vm)
        return Plan(
            guards=(Guard(keys.vm_spec(vm), "mod", entry.mod_revision),),
            effects=(Delete(keys.vm_spec(vm)), Delete(history, prefix_end(history).decode())),
            what="vm.delete",
            object=object,
            message=f"uuid {found.record.uuid}" if found.record else f"unreadable record: {found.why}",
            answer=found.record,
        )

    return await commit(cluster, request, look)
