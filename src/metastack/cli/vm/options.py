"""What the verbs of ``metastack vm`` share: their options, how a VM is printed, how a change is made.

Owns: the noun. Refuses: being a verb. Rule: a change waits until it is real unless told not to.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Protocol

import typer

from ..complete import project_names, vm_names
from ..frame import Frame, noun
from ..session import interrupted, note, vm_progress, with_cluster

if TYPE_CHECKING:
    from metastack.commands.request import Cluster, Request
    from metastack.commands.vm.change import Changed
    from metastack.commands.vm.views import VmView
    from metastack.commands.vm.wait import Goal
    from metastack.core.model import VmId

    from ..output import Printer

app = noun("vm", "Virtual machines.")

Name = Annotated[str, typer.Argument(metavar="NAME", help="NAME or PROJECT/NAME.", autocompletion=vm_names)]
Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME...", help="NAME or PROJECT/NAME, or several.", autocompletion=vm_names),
]
Project = Annotated[
    str,
    typer.Option("--project", metavar="P", autocompletion=project_names, help="Project. [default: default]"),
]
NoWait = Annotated[bool, typer.Option("--no-wait", help="Return without waiting.")]
Timeout = Annotated[float, typer.Option("--timeout", metavar="S", min=0.1, help="Maximum wait, seconds.")]
TIMEOUT_S = 120.0


def vm_printer(frame: Frame) -> Printer[VmView]:
    from metastack.core.quantity import format_bytes

    from ..output import Column, Printer, age

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
    return Printer(frame.output, columns, short_name)


class _Named(Protocol):
    @property
    def project(self) -> str: ...
    @property
    def name(self) -> str: ...


def short_name(vm: _Named) -> str:
    """As a person types it: the project only when it is not the default one."""
    return vm.name if vm.project == "default" else f"{vm.project}/{vm.name}"


def vm_id(name: str, project: str) -> VmId:
    from metastack.commands import names

    return names.vm_id(name, project)


def new_request(reason: str) -> Request:
    from metastack.commands import request

    return request.new_request(reason)


def change_vm(
    frame: Frame,
    vm: VmId,
    reason: str,
    work: Callable[[Cluster, Request], Awaitable[Changed]],
    goal: Goal | None,
    no_wait: bool,
    timeout: float,
    done: str,
) -> None:
    """Write a change, wait for it, print the VM."""
    request, begun, written = new_request(reason), False, False

    async def both(cluster: Cluster) -> VmView | None:
        from metastack.commands.vm.look import look_at_vm
        from metastack.commands.vm.wait import wait_vm

        nonlocal begun, written
        begun = True
        changed = await work(cluster, request)
        written = True
        note(frame, f"{vm}: {done}" if changed.changed else f"{vm}: unchanged")
        if goal is None or no_wait:
            return await look_at_vm(cluster, vm)
        return await wait_vm(cluster, vm, goal, timeout, changed.spec, vm_progress(frame))

    try:
        view = with_cluster(frame, both)
    except KeyboardInterrupt:
        if written:
            stays = "the change was written and stays"
            if done == "created":
                stays = f"the VM stays; `metastack vm delete {vm}` removes it"
            interrupted(frame, f"vm {vm}", stays)
        elif begun:
            interrupted(frame, f"vm {vm}", f"the change may have been written: `metastack vm show {vm}`")
        raise
    if view is not None:
        vm_printer(frame).one(view)
