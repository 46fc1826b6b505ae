"""``metastack cluster maintenance``: pause fences, takeovers and moves.

Owns: options and printing.
Refuses: rules about it (:mod:`metastack.commands.cluster.maintenance`).
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ..frame import Frame, Reason, frame_of, verb
from ..session import note, with_cluster

if TYPE_CHECKING:
    from metastack.commands.cluster.maintenance import MaintenanceView

    from ..output import Printer


class Switch(StrEnum):
    """What to do about it."""

    ON = "on"
    OFF = "off"


def _printer(frame: Frame) -> Printer[MaintenanceView]:
    from ..output import Column, Printer

    columns: list[Column[MaintenanceView]] = [
        Column("MAINTENANCE", lambda v: "on" if v.on else "off"),
        Column("LEFT-S", lambda v: str(v.left_s) if v.left_s is not None else ""),
        Column("BY", lambda v: v.by or ""),
        Column("REASON", lambda v: v.reason or ""),
        Column("LOST", lambda v: v.lost),
        Column("HEEDLESS", lambda v: v.heedless, wide=True),
    ]
    return Printer(frame.output, columns, lambda v: "on" if v.on else "off")


def mount(app: typer.Typer) -> None:
    """Put the verb under ``cluster``."""

    @verb(app, "maintenance")
    def maintenance(
        ctx: typer.Context,
        switch: Annotated[
            Switch | None, typer.Argument(metavar="[on|off]", help="Begin or end it; without: show it.")
        ] = None,
        reason: Reason = "",
        lasts: Annotated[
            str, typer.Option("--for", metavar="TIME", help="Time until it ends by itself, such as 30m or 2h.")
        ] = "1h",
    ) -> None:
        """Pause fencing: while it is on, no node is fenced, and no VM is taken over or moved.

        VMs of a host that dies meanwhile stay down until the host returns or the maintenance ends.
        """
        from metastack.commands.cluster import maintenance as commands
        from metastack.commands.request import new_request

        frame = frame_of(ctx)
        if switch is None:
            view = with_cluster(frame, commands.show_maintenance)
        elif switch is Switch.ON:
            commands.check_maintenance(reason, lasts)
            request = new_request(reason)
            view = with_cluster(frame, lambda cluster: commands.begin_maintenance(cluster, request, lasts))
            note(frame, f"cluster: {commands.in_words(view)}")
        else:
            request = new_request(reason)
            ended = with_cluster(frame, lambda cluster: commands.end_maintenance(cluster, request))
            view = ended or commands.MaintenanceView(on=False)
            note(frame, "cluster: maintenance is over" if ended else "cluster: no maintenance is on")
            if view.lost:
                note(frame, f"cluster: lost nodes, fenced from now on: {', '.join(view.lost)}")
        _printer(frame).one(view, detail=True)
