"""``metastack vm``: create, power, look at, wait for, delete.

Owns: the verbs' options and what they print. Refuses: rules about VMs (:mod:`metastack.commands.vms`).
Rule: a change waits until it is real unless told not to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .complete import image_names, node_names, project_names, vm_names
from .frame import Frame, Output, frame_of, noun, verb
from .session import confirm, note, sizes, vm_progress, with_cluster

if TYPE_CHECKING:
    from metastack.commands.deed import Cluster, Deed
    from metastack.commands.views import VmView
    from metastack.commands.vms import Changed
    from metastack.commands.wait import Goal
    from metastack.core.model import VmId

    from .output import Printer

app = noun("vm", "Virtual machines.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="NAME or PROJECT/NAME.", autocompletion=vm_names)]
Project = Annotated[
    str,
    typer.Option("--project", metavar="P", autocompletion=project_names, help="Project. [default: default]"),
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept with the change.")]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Do not wait until it is real.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="S", min=0.1, help="Longest wait, seconds.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
TIMEOUT_S = 120.0


class For(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


def _printer(frame: Frame) -> Printer[VmView]:
    from metastack.core.quantity import format_bytes

    from .output import Column, Printer, age

    def size(count: int | None, unit: int = 1) -> str | None:
        return None if count is None else format_bytes(count * unit)

    columns: list[Column[VmView]] = [
        Column("NAME", lambda v: v.name),
        Column("PROJECT", lambda v: v.project),
        Column("PHASE", lambda v: "broken" if v.broken else v.phase),
        Column("NODE", lambda v: v.node),
        Column("IPS", lambda v: v.ips),
        Column("CPUS", lambda v: v.cpus),
        Column("MEMORY", lambda v: size(v.memory_mib, 1 << 20)),
        Column("AGE", lambda v: age(v.created)),
        Column("IMAGE", lambda v: v.image, wide=True),
        Column("DISK", lambda v: size(v.disk_bytes), wide=True),
        Column("POWER", lambda v: v.power, wide=True),
        Column("EPOCH", lambda v: v.epoch, wide=True),
        Column("SINCE", lambda v: v.since, wide=True),
        Column("LABELS", lambda v: v.labels, wide=True),
        Column("UUID", lambda v: v.uuid, wide=True),
        Column("MESSAGE", lambda v: v.message),
    ]
    return Printer(
        frame.output, columns, lambda v: v.name if v.project == "default" else f"{v.project}/{v.name}"
    )


def _id(name: str, project: str) -> VmId:
    from metastack.commands.names import vm_id

    return vm_id(name, project)


def _deed(reason: str) -> Deed:
    from metastack.commands import names
    from metastack.commands.deed import new_deed

    return new_deed(names.reason(reason))


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

    with sizes():
        new = NewVm(
            vm=_id(name, project),
            image=image,
            cpus=cpus,
            memory_mib=parse_mib(memory),
            disk_bytes=parse_bytes(disk) if disk else 0,
            node=node,
            network=network,
            labels=names.labels(label or []),
            off=off,
        )

    async def work(cluster: Cluster, deed: Deed) -> Changed:
        return await create_vm(cluster, deed, new)

    goal = Goal.STOPPED if off else Goal.RUNNING
    _change(frame_of(ctx), new.vm, reason, work, goal, no_wait, timeout, "created")


def _change(
    frame: Frame,
    vm: VmId,
    reason: str,
    work: Callable[[Cluster, Deed], Awaitable[Changed]],
    goal: Goal | None,
    no_wait: bool,
    timeout: float,
    done: str,
) -> None:
    """Write a change, wait for it, print the VM."""
    deed = _deed(reason)

    async def both(cluster: Cluster) -> VmView | None:
        from metastack.commands.reading import look_at_vm
        from metastack.commands.wait import wait_vm

        changed = await work(cluster, deed)
        note(frame, f"{vm}: {done}" if changed.changed else f"{vm}: is so already")
        if goal is None or no_wait:
            return await look_at_vm(cluster, vm)
        return await wait_vm(cluster, vm, goal, timeout, changed.spec, vm_progress(frame))

    view = with_cluster(frame, both)
    if view is not None:
        _printer(frame).one(view)


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

    vm = _id(name, project)
    _change(
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

    vm = _id(name, project)
    _change(
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

    vm = _id(name, project)
    _change(
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

    vm = _id(name, project)
    _change(
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

    vm = _id(name, project)
    _change(
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

    vm = _id(name, project)
    put, drop = label_changes(list(labels))
    _change(frame_of(ctx), vm, reason, lambda c, d: label_vm(c, d, vm, put, drop), None, True, 0, "labelled")


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

    vm, frame = _id(name, project), frame_of(ctx)
    confirm(f"Delete VM {vm} and its disk?", yes)
    deed = _deed(reason)

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
        _printer(frame).one(view)


@verb(app)
def wait(
    ctx: typer.Context,
    name: Name,
    goal: Annotated[For, typer.Option("--for", help="What to wait for.")],
    project: Project = "",
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Wait until a VM is running, stopped or deleted."""
    from metastack.commands.views import VmView
    from metastack.commands.wait import Goal, wait_vm

    vm, frame = _id(name, project), frame_of(ctx)
    view = with_cluster(
        frame, lambda cluster: wait_vm(cluster, vm, Goal(goal.value), timeout, None, vm_progress(frame))
    )
    gone = view is None or goal is For.DELETED
    if gone and frame.output in (Output.TABLE, Output.WIDE):
        print(f"vm {vm} deleted")
        return
    _printer(frame).one(view or VmView(name=vm.name, project=vm.project, message="deleted", deleted=True))


@verb(app, "list")
def list_(
    ctx: typer.Context,
    project: Annotated[
        str, typer.Option("--project", metavar="P", autocompletion=project_names, help="Only this project.")
    ] = "",
    node: Annotated[str, typer.Option(metavar="N", autocompletion=node_names, help="Only on this node.")] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="Only with this label, repeatable.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on with every change.")] = False,
) -> None:
    """List VMs of all projects."""
    from metastack.commands import names
    from metastack.commands.reading import EVERYTHING, prefixes
    from metastack.commands.views import vm_views

    from .watching import print_list

    frame = frame_of(ctx)
    if project:
        names.name("project", project)
    wanted = names.labels(label or [])

    def chosen(view: VmView) -> bool:
        return (
            (not project or view.project == project)
            and (not node or view.node == node)
            and all(view.labels.get(key) == value for key, value in wanted.items())
        )

    def make(world: Any) -> list[VmView]:
        return [view for view in vm_views(world) if chosen(view)]

    printer = _printer(frame)
    with_cluster(
        frame,
        lambda cluster: print_list(
            cluster, prefixes(cluster.keys, EVERYTHING), make, printer, watch, lambda view: (view.id, view.uuid)
        ),
    )


@verb(app)
def show(ctx: typer.Context, name: Name, project: Project = "") -> None:
    """Show everything about one VM."""
    from metastack.commands.problem import not_found
    from metastack.commands.reading import look_at_vm

    vm, frame = _id(name, project), frame_of(ctx)
    view = with_cluster(frame, lambda cluster: look_at_vm(cluster, vm))
    if view is None:
        raise not_found(f"vm {vm}", "`metastack vm list` shows the VMs")
    _printer(frame).one(view, detail=True)


@verb(app)
def console(
    ctx: typer.Context,
    name: Name,
    project: Project = "",
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0, help="End after S seconds; 0: never.")
    ] = 0,
) -> None:
    """Open a VM's serial console; Ctrl-] leaves.

    Without a terminal, stdin goes to the guest and what it says to stdout until one side ends.
    """
    from .console import run_console

    run_console(frame_of(ctx), _id(name, project), timeout)
