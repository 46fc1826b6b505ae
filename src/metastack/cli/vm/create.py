"""``metastack vm create``: one VM, many, or only the answer where they would go.

Owns: this verb's options. Refuses: rules about new VMs (:mod:`metastack.commands.vm.create`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from msgspec.structs import replace

from ..complete import image_names
from ..frame import Frame, Output, Reason, frame_of, verb
from ..session import interrupted, note, size_of, vm_progress, with_cluster
from .options import TIMEOUT_S, NoWait, Project, Timeout, app, change_vm, new_request, vm_id, vm_printer
from .placement_options import (
    Affinity,
    AntiAffinity,
    Arch,
    CpuFeature,
    IgnoreSpare,
    Node,
    NodeSelector,
    Priority,
    ReadyPort,
    RequireLabel,
    Spread,
    StartAfter,
    Toleration,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from metastack.commands.problem import Problem
    from metastack.commands.request import Cluster, Request
    from metastack.commands.vm.change import Changed
    from metastack.commands.vm.create import NewVm
    from metastack.commands.vm.explain import VmExplanation
    from metastack.commands.vm.views import VmView
    from metastack.commands.vm.wait import Goal
    from metastack.core.model import VmId


@verb(app)
def create(
    ctx: typer.Context,
    image: Annotated[
        str,
        typer.Option(
            "--image", metavar="I", autocompletion=image_names, help="Image that the disk is made from."
        ),
    ],
    name: Annotated[str, typer.Argument(metavar="NAME", help="A DNS label, or PROJECT/NAME.")] = "",
    cpus: Annotated[int, typer.Option(metavar="N", help="Virtual CPUs.")] = 1,
    memory: Annotated[str, typer.Option(metavar="SIZE", help="Memory size, such as 512MiB.")] = "512MiB",
    disk: Annotated[
        str, typer.Option(metavar="SIZE", help="Disk size, such as 4GiB. [default: the image's]")
    ] = "",
    resource: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=N", help="Resource that nodes declare, such as gpu=1."),
    ] = None,
    network: Annotated[
        str,
        typer.Option(metavar="B", help="Bridge of the NIC, or none. [default: the setting default_network]"),
    ] = "",
    label: Annotated[list[str] | None, typer.Option(metavar="K=V", help="Label, repeatable.")] = None,
    node: Node = None,
    node_selector: NodeSelector = None,
    require_label: RequireLabel = None,
    toleration: Toleration = None,
    affinity: Affinity = None,
    anti_affinity: AntiAffinity = None,
    spread: Spread = None,
    arch: Arch = None,
    cpu_feature: CpuFeature = None,
    priority: Priority = None,
    start_after: StartAfter = None,
    ready_port: ReadyPort = None,
    count: Annotated[int | None, typer.Option("--count", metavar="N", help="Number of VMs.")] = None,
    name_template: Annotated[
        str,
        typer.Option(
            "--name-template", metavar="T", help="Template of their names, such as web-{n} or web-{n:03}."
        ),
    ] = "",
    first: Annotated[
        int | None, typer.Option("--first", metavar="N", help="Number in the first name.", show_default="1")
    ] = None,
    project: Project = "",
    off: Annotated[bool, typer.Option("--off", help="Create the VM stopped.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the placement only; create nothing.")
    ] = False,
    ignore_spare: IgnoreSpare = False,
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Create one or more VMs and wait until they run.

    With --count N, VMs are created in groups of 16: each group completely or not at all.
    """
    from metastack.commands import names
    from metastack.commands.vm.create import NewVm, create_vm
    from metastack.commands.vm.placement_options import PlacementOptions, resources
    from metastack.commands.vm.wait import Goal
    from metastack.core.model import Ha, Placement
    from metastack.core.quantity import parse_bytes, parse_mib

    with size_of("--memory"):
        memory_mib = parse_mib(memory)
    with size_of("--disk"):
        disk_bytes = parse_bytes(disk) if disk else 0
    demands = PlacementOptions(
        node=node,
        node_selector=node_selector,
        require_label=require_label,
        toleration=toleration,
        affinity=affinity,
        anti_affinity=anti_affinity,
        spread=spread,
        arch=arch,
        cpu_feature=cpu_feature,
        priority=priority,
        start_after=start_after,
        ready_port=ready_port,
    )
    ids = [vm_id(one, project) for one in _names(name, name_template, count, first)]
    placement, ha = demands.on(Placement(), Ha(), ids[0].project)
    new = NewVm(
        vm=ids[0],
        image=image,
        cpus=cpus,
        memory_mib=memory_mib,
        disk_bytes=disk_bytes,
        network=network,
        labels=names.labels(label or []),
        placement=placement,
        ha=ha,
        resources=resources(resource or []),
        off=off,
    )
    news, many, frame = [replace(new, vm=vm) for vm in ids], bool(count), frame_of(ctx)
    if dry_run:
        _only_say(frame, news, reason, many, ignore_spare)
        return
    goal = Goal.STOPPED if off else Goal.RUNNING
    if many:
        _create_many(frame, news, reason, goal, None if no_wait else timeout, ignore_spare)
        return

    async def work(cluster: Cluster, request: Request) -> Changed:
        return await create_vm(cluster, request, new, ignore_spare)

    change_vm(frame, new.vm, reason, work, goal, no_wait, timeout, "created")


def _names(name: str, template: str, count: int | None, first: int | None) -> list[str]:
    from metastack.commands.problem import usage
    from metastack.commands.vm.create import numbered

    if count is not None or template:
        if not template:
            raise usage("--count", "needs --name-template", "add --name-template, such as web-{n}")
        if name:
            raise usage("vm", f"{name!r} and --name-template exclude each other", "give one of them")
        return numbered(template, 1 if count is None else count, 1 if first is None else first)
    if first is not None:
        raise usage("--first", "needs --count and --name-template", "add --count and --name-template")
    if not name:
        raise usage("vm", "has no name", "`metastack vm create NAME --image IMAGE`")
    return [name]


def _only_say(frame: Frame, news: Sequence[NewVm], reason: str, many: bool, ignore_spare: bool) -> None:
    """Where they would go; nothing is written."""
    from metastack.commands.vm.create import plan_vms
    from metastack.commands.vm.explain import equal_nodes_words, explain_plan

    from ..output import Column, Printer, clean
    from .explain import print_explanation

    request = new_request(reason)

    async def work(cluster: Cluster) -> list[VmExplanation]:
        return await explain_plan(cluster, request, await plan_vms(cluster, request, news), ignore_spare)

    found = with_cluster(frame, work)
    columns: list[Column[VmExplanation]] = [
        Column("NAME", lambda v: v.name),
        Column("PROJECT", lambda v: v.project),
        Column("NODE", lambda v: v.chosen),
        Column("ANSWER", lambda v: v.summary),
    ]
    printer = Printer(frame.output, columns, lambda v: v.chosen or "-")
    if found[0].refused:
        note(frame, f"would be refused: {found[0].refused}")
    if open_ := equal_nodes_words(found):
        note(frame, open_)
    if many:
        printer.list(found)
    elif frame.output in (Output.TABLE, Output.WIDE):
        print(clean("dry run: nothing was created"))
        print_explanation(frame, found[0])
    else:
        printer.one(found[0])


def _create_many(
    frame: Frame, news: Sequence[NewVm], reason: str, goal: Goal, timeout: float | None, ignore_spare: bool
) -> None:
    """Write them, wait for each, list all that were written; then say what went wrong."""
    import time

    from metastack.commands.problem import Problem
    from metastack.commands.reading import EVERYTHING, read_world
    from metastack.commands.vm.create import create_vms
    from metastack.commands.vm.views import vm_view
    from metastack.commands.vm.wait import wait_vm

    request, ends = new_request(reason), time.monotonic() + (timeout or 0)

    begun = False
    written: list[VmId] = []

    async def work(cluster: Cluster) -> tuple[list[VmView], list[Problem]]:
        nonlocal begun, written
        begun = True
        created = await create_vms(cluster, request, news, ignore_spare)
        written = [spec.id for spec in created.specs]
        note(frame, f"{len(created.specs)} of {len(news)} VMs created")
        problems = [created.problem] if created.problem is not None else []
        for spec in created.specs if timeout is not None else ():
            left = max(0.5, ends - time.monotonic())
            try:
                await wait_vm(cluster, spec.id, goal, left, spec, vm_progress(frame), of_s=timeout or 0)
            except Problem as problem:
                problems.append(problem)
        world = await read_world(cluster, cluster.keys.prefixes(EVERYTHING))
        views = [vm_view(world, spec.id) for spec in created.specs]
        return [view for view in views if view is not None], problems

    try:
        views, problems = with_cluster(frame, work)
    except KeyboardInterrupt:
        names = " ".join(map(str, written))
        if written:
            stays = f"{len(written)} VMs stay; `metastack vm delete {names}` removes them"
            interrupted(frame, f"vm {', '.join(map(str, written))}", stays)
        elif begun:
            interrupted(frame, f"vm {news[0].vm}", "VMs that were created already stay: `metastack vm list`")
        raise
    vm_printer(frame).list(views)
    if problems:
        raise _all_of(problems, len(views), len(news))


def _all_of(problems: Sequence[Problem], made: int, wanted: int) -> Problem:
    """The first problem, and how many more there are."""
    from metastack.commands.problem import Problem

    first = problems[0]
    others = len(problems) - 1
    more = f" (and {others} more VM{'s' if others > 1 else ''})" if others else ""
    if made < wanted:
        more = f"; {made} of {wanted} VMs were created and stay{more}"
    return Problem(first.code, first.object, first.message + more, first.hint)
