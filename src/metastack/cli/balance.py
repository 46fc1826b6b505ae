"""``metastack balance``: which running VMs should move so that all are better placed.

Owns: options and printing. Refuses: plans (:mod:`metastack.commands.capacity.balance`), and moving anything.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .frame import Output, frame_of, verb
from .session import with_cluster

if TYPE_CHECKING:
    from metastack.commands.capacity.balance import BalanceView, MoveView

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@verb(app)
def balance(
    ctx: typer.Context,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan only; applying it is not supported yet.")
    ] = False,
    max_moves: Annotated[int, typer.Option("--max-moves", metavar="N", help="Maximum number of moves.")] = 10,
    min_gain: Annotated[
        float, typer.Option("--min-gain", metavar="G", help="Minimum score gain of each move.")
    ] = 0.05,
) -> None:
    """Plan moves of running VMs: their order and their gain."""
    from metastack.commands.capacity.balance import not_yet, plan_balance

    if not dry_run:
        raise not_yet()
    frame = frame_of(ctx)
    view = with_cluster(frame, lambda cluster: plan_balance(cluster, max_moves, min_gain))
    _print(frame.output, view)


def _print(output: Output, view: BalanceView) -> None:
    from .output import Column, Printer, clean, paint

    if output not in (Output.TABLE, Output.WIDE):
        printer: Printer[BalanceView] = Printer(output, [], lambda v: v.summary)
        printer.one(view)
        return
    print(paint(clean(view.summary), "ok", sys.stdout))
    columns: list[Column[MoveView]] = [
        Column("NAME", lambda v: v.name),
        Column("PROJECT", lambda v: v.project),
        Column("FROM", lambda v: v.before),
        Column("TO", lambda v: v.after),
        Column("SCORE", lambda v: f"{v.score_before:.3f} -> {v.score_after:.3f}"),
        Column("STDEV", lambda v: f"{v.stdev_before:.3f} -> {v.stdev_after:.3f}"),
        Column("EMPTIES", lambda v: v.empties, wide=view.aim != "pack"),
    ]
    if view.moves:
        Printer(output, columns, lambda v: v.name).list(view.moves)
    if view.stays:
        told = ", ".join(f"{count} {why}" for why, count in view.stays.items())
        print(f"cannot be moved: {clean(told)}")
