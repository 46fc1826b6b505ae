"""``metastack vm break-lock``: shut a client out that keeps a VM from its disk.

Owns: options and printing. Refuses: rules about locks (:mod:`metastack.commands.vm.break_lock`).
Rule: it wants a reason, and a yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..frame import Reason, Yes, frame_of, verb
from ..session import confirm, note, with_cluster
from .options import Name, NoWait, Project, app, new_request, short_name, vm_id

if TYPE_CHECKING:
    from metastack.commands.request import Cluster
    from metastack.commands.vm.break_lock import LockView


@verb(app, "break-lock")
def break_lock(
    ctx: typer.Context,
    name: Name,
    reason: Reason = "",
    yes: Yes = False,
    project: Project = "",
    no_wait: NoWait = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0.1, help="Maximum wait, seconds.")
    ] = 30.0,
) -> None:
    """Block the client that has the disk of a pending VM open, and break its lock.

    The VM's node does it. A client of a live node is never blocked.
    """
    from metastack.commands.vm.break_lock import break_lock as ask
    from metastack.commands.vm.break_lock import check_break_lock, check_reason, wait_answer

    from ..output import Column, Printer

    frame, vm = frame_of(ctx), vm_id(name, project)
    check_reason(vm, reason)
    request = new_request(reason)
    if not yes:
        client = with_cluster(frame, lambda cluster: check_break_lock(cluster, vm))
        confirm(f"Block {client} from the disk of {vm}? Its unwritten data is lost.", yes)

    async def work(cluster: Cluster) -> LockView:
        order, view = await ask(cluster, request, vm)
        note(frame, f"{vm}: {view.node} is asked to block {view.client}")
        return view if no_wait else await wait_answer(cluster, vm, order, view, timeout)

    columns: list[Column[LockView]] = [
        Column("NAME", lambda v: v.name),
        Column("PROJECT", lambda v: v.project),
        Column("NODE", lambda v: v.node),
        Column("CLIENT", lambda v: v.client),
        Column("RESULT", lambda v: v.result),
        Column("MESSAGE", lambda v: v.message),
    ]
    Printer(frame.output, columns, short_name).one(with_cluster(frame, work))
