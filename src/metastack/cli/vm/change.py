"""``metastack vm``: power, pause, label, delete.

Owns: these verbs' options. Refuses: rules about VMs (:mod:`metastack.commands.vm.change`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..frame import Output, Reason, Yes, frame_of, verb
from ..session import confirm, interrupted, note, vm_progress, with_cluster
from .many import change_vms, each, fail, in_time, vm_ids
from .options import (
    TIMEOUT_S,
    Name,
    Names,
    NoWait,
    Project,
    Timeout,
    app,
    change_vm,
    new_request,
    vm_id,
    vm_printer,
)
from .placement_options import IgnoreSpare

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metastack.commands.problem import Problem
    from metastack.commands.request import Cluster
    from metastack.commands.vm.views import VmView
    from metastack.core.model import VmId, VmSpec

DiscardDrift = Annotated[
    bool,
    typer.Option(
        "--discard-drift", help="Proceed though it writes to another file than its disk; that data is lost."
    ),
]


@verb(app)
def start(
    ctx: typer.Context,
    names: Names,
    project: Project = "",
    ignore_spare: IgnoreSpare = False,
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Start VMs and wait until they run."""
    from metastack.commands.vm.change import start_vm
    from metastack.commands.vm.wait import Goal

    change_vms(
        frame_of(ctx),
        names,
        project,
        reason,
        lambda c, d, vm: start_vm(c, d, vm, ignore_spare),
        Goal.RUNNING,
        no_wait,
        timeout,
        "asked to start",
    )


@verb(app)
def stop(
    ctx: typer.Context,
    names: Names,
    force: Annotated[
        bool, typer.Option("--force", help="Power off at once, without a guest shutdown.")
    ] = False,
    discard_drift: DiscardDrift = False,
    project: Project = "",
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Stop VMs and wait until they are stopped."""
    from metastack.commands.vm.change import stop_vm
    from metastack.commands.vm.wait import Goal

    change_vms(
        frame_of(ctx),
        names,
        project,
        reason,
        lambda c, d, vm: stop_vm(c, d, vm, force, discard_drift),
        Goal.STOPPED,
        no_wait,
        timeout,
        "asked to stop",
    )


@verb(app)
def restart(
    ctx: typer.Context,
    names: Names,
    force: Annotated[
        bool, typer.Option("--force", help="Power off at once, without a guest shutdown.")
    ] = False,
    discard_drift: DiscardDrift = False,
    project: Project = "",
    ignore_spare: IgnoreSpare = False,
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Restart VMs and wait until they run."""
    from metastack.commands.vm.change import restart_vm
    from metastack.commands.vm.wait import Goal

    change_vms(
        frame_of(ctx),
        names,
        project,
        reason,
        lambda c, d, vm: restart_vm(c, d, vm, force, ignore_spare, discard_drift),
        Goal.RUNNING,
        no_wait,
        timeout,
        "asked to restart",
    )


@verb(app)
def pause(
    ctx: typer.Context,
    names: Names,
    project: Project = "",
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Pause running VMs."""
    from metastack.commands.vm.change import pause_vm
    from metastack.commands.vm.wait import Goal

    change_vms(
        frame_of(ctx),
        names,
        project,
        reason,
        lambda c, d, vm: pause_vm(c, d, vm),
        Goal.PAUSED,
        no_wait,
        timeout,
        "asked to pause",
    )


@verb(app)
def resume(
    ctx: typer.Context,
    names: Names,
    project: Project = "",
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Resume paused VMs."""
    from metastack.commands.vm.change import resume_vm
    from metastack.commands.vm.wait import Goal

    change_vms(
        frame_of(ctx),
        names,
        project,
        reason,
        lambda c, d, vm: resume_vm(c, d, vm),
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
    from metastack.commands.vm.change import label_vm

    vm = vm_id(name, project)
    put, drop = label_changes(list(labels))
    change_vm(frame_of(ctx), vm, reason, lambda c, d: label_vm(c, d, vm, put, drop), None, True, 0, "labelled")


@verb(app)
def delete(
    ctx: typer.Context,
    names: Names,
    project: Project = "",
    yes: Yes = False,
    discard_drift: DiscardDrift = False,
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Delete VMs and their disks, and wait until they are deleted."""
    from metastack.commands.names import reason as checked
    from metastack.commands.vm.change import delete_vm, label_of
    from metastack.commands.vm.look import look_at_vm
    from metastack.commands.vm.views import VmView
    from metastack.commands.vm.wait import Goal, wait_vm

    vms, frame = vm_ids(names, project), frame_of(ctx)
    checked(reason)
    confirm(_question(vms), yes)
    gone: dict[VmId, VmSpec | None] = {}

    async def write(cluster: Cluster, vm: VmId) -> None:
        gone[vm] = await delete_vm(cluster, new_request(reason), vm, discard_drift=discard_drift)
        note(frame, f"{vm}: deleted")

    async def wait(cluster: Cluster, vm: VmId, left_s: float) -> None:
        spec = gone[vm]
        if spec is not None:
            of_s = timeout if len(vms) > 1 else 0.0
            await wait_vm(cluster, vm, Goal.DELETED, left_s, spec, vm_progress(frame), of_s=of_s)

    async def last_word(cluster: Cluster, vm: VmId) -> VmView:
        spec = gone[vm]
        view = await look_at_vm(cluster, vm)
        if view is None or not view.deleted:  # nothing of it is left, or a later one has its name
            view = VmView(name=vm.name, project=vm.project, message="deleted")
            if spec is not None:
                view.uuid, view.volume_uuid = spec.uuid, spec.volume_uuid
        view.deleted = True
        return view

    async def work(cluster: Cluster) -> tuple[list[VmView], list[Problem]]:
        problems = await each(vms, lambda vm: write(cluster, vm))
        if not no_wait:
            problems += await in_time(list(gone), timeout, lambda vm, left: wait(cluster, vm, left))
        return [await last_word(cluster, vm) for vm in gone], problems

    try:
        views, problems = with_cluster(frame, work)
    except KeyboardInterrupt:
        if gone:
            interrupted(frame, f"vm {', '.join(map(str, gone))}", "the deletion continues by itself")
        raise
    if len(vms) == 1:
        fail(problems)
    if frame.output in (Output.TABLE, Output.WIDE):
        late = {problem.object for problem in problems}
        for vm in gone:
            if label_of(vm) not in late:
                print(f"vm {vm} deleted")
    elif len(vms) == 1:
        vm_printer(frame).one(views[0])
    else:
        vm_printer(frame).list(views)
    fail(problems)


def _question(vms: Sequence[VmId]) -> str:
    if len(vms) == 1:
        return f"Delete VM {vms[0]} and its disk?"
    return f"Delete {len(vms)} VMs and their disks ({', '.join(map(str, vms))})?"
