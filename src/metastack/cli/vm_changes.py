"""``metastack vm``: create, power, pause, label, delete.

Owns: these verbs' options. Refuses: rules about VMs (:mod:`metastack.commands.vms`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .complete import image_names, node_names
from .frame import Output, frame_of, verb
from .session import confirm, note, size_of, vm_progress, with_cluster
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
    from metastack.commands.deed import Cluster, Deed
    from metastack.commands.views import VmView
    from metastack.commands.vms import Changed


@verb(app)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A DNS label, or PROJECT/NAME.")],
    image: Annotated[
        str, typer.Option("--image", metavar="I", autocompletion=image_names, help="Image of its disk.")
    ],
    cpus: Annotated[int, typer.Option(metavar="N", help="Virtual CPUs.")] = 1,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory, such as 512MiB.")] = "512MiB",
    disk: Annotated[str, typer.Option(metavar="SIZE", help="Disk, such as 4GiB. [default: the image's]")] = "",
    node: Annotated[str, typer.Option(metavar="N", autocompletion=node_names, help="Only on this node.")] = "",
    network: Annotated[
        str, typer.Option(metavar="B", help="Bridge of its NIC, or none. [default: the configuration's]")
    ] = "",
    label: Annotated[list[str] | None, typer.Option(metavar="K=V", help="Label, repeatable.")] = None,
    project: Project = "",
    off: Annotated[bool, typer.Option("--off", help="Create it switched off.")] = False,
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Create a VM and wait until it runs."""
    from metastack.commands import names
    from metastack.commands.vms import NewVm, create_vm
    from metastack.commands.wait import Goal
    from metastack.core.quantity import parse_bytes, parse_mib

    with size_of("--memory"):
        memory_mib = parse_mib(memory)
    with size_of("--disk"):
        disk_bytes = parse_bytes(disk) if disk else 0
    new = NewVm(
        vm=vm_id(name, project),
        image=image,
        cpus=cpus,
        memory_mib=memory_mib,
        disk_bytes=disk_bytes,
        node=node,
        network=network,
        labels=names.labels(label or []),
        off=off,
    )

    async def work(cluster: Cluster, deed: Deed) -> Changed:
        return await create_vm(cluster, deed, new)

    goal = Goal.STOPPED if off else Goal.RUNNING
    change_vm(frame_of(ctx), new.vm, reason, work, goal, no_wait, timeout, "created")


@verb(app)
def start(
    ctx: typer.Context,
    name: Name,
    project: Project = "",
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
        lambda c, d: start_vm(c, d, vm),
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
        lambda c, d: restart_vm(c, d, vm, force),
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
