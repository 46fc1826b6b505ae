"""``metastack vm``: power, pause, label, delete.

Owns: these verbs' options. Refuses: rules about VMs (:mod:`metastack.commands.vms`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .demands import IgnoreSpare
from .frame import Output, frame_of, verb
from .session import confirm, note, vm_progress, with_cluster
from .vm_options import (
    TIMEOUT_S,
    Name,
    NoWait,
    Project,
    Reason,
    Timeout,
    Yes,
    app,
    change_vm,
    new_deed,
    vm_id,
    vm_printer,
)

if TYPE_CHECKING:
    from metastack.commands.deed import Cluster
    from metastack.commands.views import VmView


@verb(app)
def start(
    ctx: typer.Context,
    name: Name,
    project: Project = "",
    ignore_spare: IgnoreSpare = False,
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Switch a VM on and wait until it runs."""
    from metastack.commands.vms import start_vm
    from metastack.commands.wait import Goal

    vm = vm_id(name, project)
    change_vm(
        frame_of(ctx),
        vm,
        reason,
        lambda c, d: start_vm(c, d, vm, ignore_spare),
        Goal.RUNNING,
        no_wait,
        timeout,
        "asked to start",
    )


@verb(app)
def stop(
    ctx: typer.Context,
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Pull the plug.")] = False,
    project: Project = "",
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Switch a VM off and wait until it is."""
    from metastack.commands.vms import stop_vm
    from metastack.commands.wait import Goal

    vm = vm_id(name, project)
    change_vm(
        frame_of(ctx),
        vm,
        reason,
        lambda c, d: stop_vm(c, d, vm, force),
        Goal.STOPPED,
        no_wait,
        timeout,
        "asked to stop",
    )


@verb(app)
def restart(
    ctx: typer.Context,
    name: Name,
    force: Annotated[bool, typer.Option("--force", help="Pull the plug first.")] = False,
    project: Project = "",
    ignore_spare: IgnoreSpare = False,
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Stop a VM, start it afresh, and wait until it runs."""
    from metastack.commands.vms import restart_vm
    from metastack.commands.wait import Goal

    vm = vm_id(name, project)
    change_vm(
        frame_of(ctx),
        vm,
        reason,
        lambda c, d: restart_vm(c, d, vm, force, ignore_spare),
        Goal.RUNNING,
        no_wait,
        timeout,
        "asked to restart",
    )


@verb(app)
def pause(
    ctx: typer.Context,
    name: Name,
    project: Project = "",
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Freeze a running VM."""
    from metastack.commands.vms import pause_vm
    from metastack.commands.wait import Goal

    vm = vm_id(name, project)
    change_vm(
        frame_of(ctx),
        vm,
        reason,
        lambda c, d: pause_vm(c, d, vm),
        Goal.PAUSED,
        no_wait,
        timeout,
        "asked to pause",
    )


@verb(app)
def resume(
    ctx: typer.Context,
    name: Name,
    project: Project = "",
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Let a paused VM run on."""
    from metastack.commands.vms import resume_vm
    from metastack.commands.wait import Goal

    vm = vm_id(name, project)
    change_vm(
        frame_of(ctx),
        vm,
        reason,
        lambda c, d: resume_vm(c, d, vm),
        Goal.RUNNING,
        no_wait,
        timeout,
        "asked to resume",
    )


@verb(app)
def label(
    ctx: typer.Context,
    name: Name,
    labels: Annotated[list[str], typer.Argument(metavar="K=V|K-...", help="Set a label, or remove it.")],
    project: Project = "",
    reason: Reason = "",
) -> None:
    """Set (K=V) and remove (K-) labels."""
    from metastack.commands.names import label_changes
    from metastack.commands.vms import label_vm

    vm = vm_id(name, project)
    put, drop = label_changes(list(labels))
    change_vm(frame_of(ctx), vm, reason, lambda c, d: label_vm(c, d, vm, put, drop), None, True, 0, "labelled")


@verb(app)
def delete(
    ctx: typer.Context,
    name: Name,
    project: Project = "",
    yes: Yes = False,
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Delete a VM and its disk, and wait until both are gone."""
    from metastack.commands.reading import look_at_vm
    from metastack.commands.vms import delete_vm
    from metastack.commands.wait import Goal, wait_vm

    vm, frame = vm_id(name, project), frame_of(ctx)
    confirm(f"Delete VM {vm} and its disk?", yes)
    deed = new_deed(reason)

    async def work(cluster: Cluster) -> VmView:
        from metastack.commands.views import VmView

        spec = await delete_vm(cluster, deed, vm)
        note(frame, f"{vm}: deleted")
        if spec is not None and not no_wait:
            await wait_vm(cluster, vm, Goal.DELETED, timeout, spec, vm_progress(frame))
        view = await look_at_vm(cluster, vm) if no_wait else None
        if view is None or not view.deleted:
            view = VmView(name=vm.name, project=vm.project, message="deleted")
            if spec is not None:
                view.uuid, view.volume_uuid = spec.uuid, spec.volume_uuid
        view.deleted = True
        return view

    view = with_cluster(frame, work)
    if frame.output in (Output.TABLE, Output.WIDE):
        print(f"vm {vm} deleted")
    else:
        vm_printer(frame).one(view)
