"""``metastack vm``: wait, list, show, history, console; every other verb is in a module of its own.

Owns: these verbs' options and what they print. Refuses: writing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..complete import node_names, project_names
from ..frame import Output, frame_of, verb
from ..session import vm_progress, with_cluster
from . import break_lock, change, create, explain, place, rebuild
from .options import TIMEOUT_S, Name, Project, Timeout, app, vm_id, vm_printer

if TYPE_CHECKING:
    from metastack.commands.request import Cluster
    from metastack.commands.vm.views import VmView


__all__ = ["app", "break_lock", "change", "create", "explain", "place", "rebuild"]


class For(StrEnum):
    RUNNING = "running"
    STOPPED = "stopped"
    DELETED = "deleted"


@verb(app)
def wait(
    ctx: typer.Context,
    name: Name,
    goal: Annotated[For, typer.Option("--for", help="Phase to wait for.")],
    project: Project = "",
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Wait until a VM is running, stopped or deleted."""
    from metastack.commands.vm.views import VmView
    from metastack.commands.vm.wait import Goal, wait_vm

    vm, frame = vm_id(name, project), frame_of(ctx)
    view = with_cluster(
        frame, lambda cluster: wait_vm(cluster, vm, Goal(goal.value), timeout, None, vm_progress(frame))
    )
    gone = view is None or goal is For.DELETED
    if gone and frame.output in (Output.TABLE, Output.WIDE):
        print(f"vm {vm} deleted")
        return
    vm_printer(frame).one(view or VmView(name=vm.name, project=vm.project, message="deleted", deleted=True))


@verb(app, "list")
def list_(
    ctx: typer.Context,
    project: Annotated[
        str,
        typer.Option("--project", metavar="P", autocompletion=project_names, help="Only VMs of this project."),
    ] = "",
    node: Annotated[
        str, typer.Option(metavar="N", autocompletion=node_names, help="Only VMs on this node.")
    ] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="K=V", help="Only VMs with this label, repeatable.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep printing changes.")] = False,
) -> None:
    """List VMs of all projects."""
    from metastack.commands import names
    from metastack.commands.cluster.projects import need_project
    from metastack.commands.reading import EVERYTHING
    from metastack.commands.vm.views import vm_views

    from ..watching import print_list

    frame = frame_of(ctx)
    wanted = names.labels(label or [])

    def chosen(view: VmView) -> bool:
        return (
            (not project or view.project == project)
            and (not node or view.node == node)
            and all(view.labels.get(key) == value for key, value in wanted.items())
        )

    def make(world: Any) -> list[VmView]:
        return [view for view in vm_views(world) if chosen(view)]

    printer = vm_printer(frame)

    async def work(cluster: Cluster) -> None:
        if project:
            await need_project(cluster, project)
        wanted = cluster.keys.prefixes(EVERYTHING)
        await print_list(cluster, wanted, make, printer, watch, lambda view: (view.id, view.uuid))

    with_cluster(frame, work)


@verb(app)
def show(ctx: typer.Context, name: Name, project: Project = "") -> None:
    """Show everything about one VM."""
    from metastack.commands.problem import not_found
    from metastack.commands.vm.look import look_at_vm

    vm, frame = vm_id(name, project), frame_of(ctx)
    view = with_cluster(frame, lambda cluster: look_at_vm(cluster, vm))
    if view is None:
        raise not_found(f"vm {vm}", "`metastack vm list` shows the VMs")
    vm_printer(frame).one(view, detail=True)


@verb(app)
def history(ctx: typer.Context, name: Name, project: Project = "") -> None:
    """Show the changes of a VM: author, time and reason; oldest first."""
    from metastack.commands.vm.history import VmVersion, vm_history

    from ..output import Column, Printer

    vm, frame = vm_id(name, project), frame_of(ctx)
    columns: list[Column[VmVersion]] = [
        Column("VERSION", lambda v: v.version),
        Column("AT", lambda v: v.at),
        Column("BY", lambda v: v.by),
        Column("REASON", lambda v: v.reason),
        Column("REQUEST", lambda v: v.request_id, wide=True),
        Column("UUID", lambda v: v.uuid, wide=True),
        Column("CHANGES", lambda v: "; ".join(v.changes)),
    ]
    printer = Printer(frame.output, columns, lambda v: str(v.version))
    printer.list(with_cluster(frame, lambda cluster: vm_history(cluster, vm)))


@verb(app)
def console(
    ctx: typer.Context,
    name: Name,
    project: Project = "",
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0, help="End after S seconds; 0: never.")
    ] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Keep listening after the end of stdin.")
    ] = False,
) -> None:
    """Open a VM's serial console; Ctrl-] leaves.

    Without a terminal, stdin goes to the guest and its output to stdout. After the end of stdin, the console
    closes once the guest is silent for 2 s, after 10 s at the latest, unless --follow is given.
    """
    from .console import run_console

    run_console(frame_of(ctx), vm_id(name, project), timeout, follow)
