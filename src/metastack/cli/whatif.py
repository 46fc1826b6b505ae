"""``metastack whatif``: does everything still fit with nodes lost or added?

Owns: options, printing, the exit status. Refuses: answering (:mod:`metastack.commands.capacity.whatif`).
Rule: exit 1 when something would be left out that has a place now; who is pending already is told apart.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .complete import node_names
from .frame import Output, frame_of, verb
from .session import size_of, with_cluster

if TYPE_CHECKING:
    from metastack.commands.capacity.whatif import MoveView, WhatIf
    from metastack.commands.request import Cluster

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@verb(app)
def whatif(
    ctx: typer.Context,
    lose: Annotated[
        list[str] | None,
        typer.Option(
            "--lose", metavar="NODE[,NODE]", autocompletion=node_names, help="Assume that these nodes are lost."
        ),
    ] = None,
    lose_any: Annotated[
        int | None,
        typer.Option("--lose-any", metavar="K", help="Assume the loss of any K nodes."),
    ] = None,
    add: Annotated[int, typer.Option("--add", metavar="N", help="Number of nodes to add.")] = 0,
    cpus: Annotated[float, typer.Option("--cpus", metavar="C", help="vCPU of each new node.")] = 0,
    memory: Annotated[str, typer.Option("--memory", metavar="SIZE", help="Memory of each new node.")] = "",
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="K=V", help="Label of each new node, repeatable.")
    ] = None,
) -> None:
    """Predict the placement of all VMs if nodes are lost or added.

    Exit 1 if a VM that has a node now would not fit. VMs that fit no node even now are listed as already
    pending and do not count.
    """
    from metastack.commands import names
    from metastack.commands.capacity.whatif import any_loss, new_nodes, outlook
    from metastack.commands.problem import usage
    from metastack.commands.reading import read_engine_state
    from metastack.core.quantity import parse_mib

    frame = frame_of(ctx)
    lost = list(dict.fromkeys(part for text in lose or [] for part in text.split(",") if part))
    if lose and not lost:
        # An empty variable of a script must not be told that all is well.
        raise usage("--lose", "names no node", "`metastack node list` shows the nodes")
    if lose_any is not None and (lost or add):
        raise usage("--lose-any", "cannot be combined with --lose or --add", "leave --lose and --add out")
    if add and not (cpus and memory):
        raise usage(
            "--add", "needs the size of the new nodes", "add their size, such as --cpus 64 --memory 256GiB"
        )
    if not add and (cpus or memory or label):
        raise usage("--add", "is missing", "give the number of new nodes, such as --add 1")
    with size_of("--memory"):
        memory_mib = parse_mib(memory) if memory else 0
    labels = names.labels(label or [])

    async def work(cluster: Cluster) -> WhatIf:
        world = await read_engine_state(cluster)
        if lose_any is not None:
            return any_loss(world, lose_any)
        return outlook(world, lost, new_nodes(world, add, cpus, memory_mib, labels) if add else [])

    view = with_cluster(frame, work)
    _print(frame.output, view)
    if not view.fits:
        raise typer.Exit(1)


def _answer(view: MoveView) -> str:
    if view.after is None:
        return "already pending" if view.pending_already else "would not fit"
    return "starts on another node" if view.before else "starts"


def _out_first(view: MoveView) -> tuple[bool, bool]:
    return view.after is not None, view.pending_already


def _print(output: Output, view: WhatIf) -> None:
    from .output import Column, Printer, clean, paint

    if output not in (Output.TABLE, Output.WIDE):
        printer: Printer[WhatIf] = Printer(output, [], lambda v: "fits" if v.fits else "does not fit")
        printer.one(view)
        return
    print(paint(clean(view.summary), "ok" if view.fits else "not ok", sys.stdout))
    columns: list[Column[MoveView]] = [
        Column("NAME", lambda v: v.name),
        Column("PROJECT", lambda v: v.project),
        Column("BEFORE", lambda v: v.before),
        Column("AFTER", lambda v: v.after),
        Column("ANSWER", _answer),
        Column("REASON", lambda v: v.reason),
    ]
    if view.moves:
        # Who is left out comes first: that is what the question was.
        Printer(output, columns, lambda v: v.name).list(sorted(view.moves, key=_out_first))
    if output is Output.WIDE:
        for node in view.nodes:
            used, room = node.promised, node.room
            print(
                f"{node.name}  {node.state}  {used.cpus:g}/{room.cpus:g} vCPU"
                f"  {used.memory_mib}/{room.memory_mib}MiB"
            )
