"""``metastack vm``: place, move, unpin.

Owns: these verbs' options. Refuses: rules about places (:mod:`metastack.commands.vm.place`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..complete import node_names
from ..frame import Reason, frame_of, verb
from ..session import note, vm_progress, with_cluster
from .options import (
    TIMEOUT_S,
    Name,
    NoWait,
    Project,
    Timeout,
    app,
    change_vm,
    new_request,
    vm_id,
    vm_printer,
)
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
    from metastack.commands.request import Cluster, Request
    from metastack.commands.vm.specs import Changed
    from metastack.commands.vm.views import VmView


@verb(app)
def place(
    ctx: typer.Context,
    name: Name,
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
    project: Project = "",
    ignore_spare: IgnoreSpare = False,
    reason: Reason = "",
) -> None:
    """Change the placement rules and the start order of a VM.

    A running VM stays on its node. An option replaces all values that the VM had of its kind;
    an empty text ('') removes them.
    """
    from metastack.commands.vm.look import look_at_vm
    from metastack.commands.vm.place import place_vm
    from metastack.commands.vm.placement_options import PlacementOptions

    vm, frame, request = vm_id(name, project), frame_of(ctx), new_request(reason)
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

    async def work(cluster: Cluster) -> VmView | None:
        placed = await place_vm(cluster, request, vm, demands, ignore_spare)
        note(frame, f"{vm}: changed" if placed.changed else f"{vm}: unchanged")
        if placed.remark:
            note(frame, f"{vm}: {placed.remark}")
        return await look_at_vm(cluster, vm)

    if (view := with_cluster(frame, work)) is not None:
        vm_printer(frame).one(view)


@verb(app)
def unpin(
    ctx: typer.Context,
    name: Name,
    project: Project = "",
    ignore_spare: IgnoreSpare = False,
    reason: Reason = "",
) -> None:
    """Remove the pin of a VM; a running VM stays on its node."""
    from metastack.commands.vm.place import unpin_vm

    vm = vm_id(name, project)

    async def work(cluster: Cluster, request: Request) -> Changed:
        return await unpin_vm(cluster, request, vm, ignore_spare)

    change_vm(frame_of(ctx), vm, reason, work, None, True, 0, "unpinned")


@verb(app)
def move(
    ctx: typer.Context,
    name: Name,
    node: Annotated[str, typer.Argument(metavar="NODE", autocompletion=node_names)],
    cold: Annotated[
        bool, typer.Option("--cold", help="Stop a running VM first; without it, a running VM is refused.")
    ] = False,
    project: Project = "",
    ignore_spare: IgnoreSpare = False,
    reason: Reason = "",
    no_wait: NoWait = False,
    timeout: Timeout = TIMEOUT_S,
) -> None:
    """Pin a VM to a node and wait until it runs there."""
    from metastack.commands.vm.look import look_at_vm
    from metastack.commands.vm.place import move_vm
    from metastack.commands.vm.wait import Goal, wait_vm
    from metastack.core.model import Power

    vm, frame, request = vm_id(name, project), frame_of(ctx), new_request(reason)

    async def work(cluster: Cluster) -> VmView | None:
        moved = await move_vm(cluster, request, vm, node, cold, ignore_spare)
        note(frame, f"{vm}: pinned to {node}" if moved.changed else f"{vm}: unchanged")
        if moved.remark:
            note(frame, f"{vm}: {moved.remark}")
        view = await look_at_vm(cluster, vm)
        if no_wait or moved.spec.power is Power.OFF or (view is not None and view.phase == "stopped"):
            return view
        return await wait_vm(cluster, vm, Goal.RUNNING, timeout, moved.spec, vm_progress(frame), node)

    if (view := with_cluster(frame, work)) is not None:
        vm_printer(frame).one(view)
