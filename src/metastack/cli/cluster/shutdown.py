"""``metastack cluster shutdown``: stop every guest at once, so that all hosts can be switched off.

Owns: options and printing.
Refuses: rules about it (:mod:`metastack.commands.cluster.shutdown`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..frame import Frame, Reason, Yes, frame_of, verb
from ..session import confirm, note, with_cluster

if TYPE_CHECKING:
    from metastack.commands.cluster.shutdown import ShutdownView

    from ..output import Printer


def _printer(frame: Frame) -> Printer[ShutdownView]:
    from ..output import Column, Printer

    columns: list[Column[ShutdownView]] = [
        Column("SHUTDOWN", lambda v: "on" if v.on else "off"),
        Column("LEFT-S", lambda v: str(v.left_s) if v.left_s is not None else ""),
        Column("BY", lambda v: v.by or ""),
        Column("REASON", lambda v: v.reason or ""),
        Column("HOSTS", lambda v: [f"{host.name} {host.state} ({host.vms} VMs)" for host in v.hosts]),
    ]
    return Printer(frame.output, columns, lambda v: "on" if v.on else "off")


def mount(app: typer.Typer) -> None:
    """Put the verb under ``cluster``."""

    @verb(app, "shutdown")
    def shutdown(
        ctx: typer.Context,
        within: Annotated[
            str,
            typer.Option("--within", metavar="TIME", help="Time to switch the hosts off, such as 30m or 2h."),
        ] = "30m",
        cancel: Annotated[
            bool, typer.Option("--cancel", help="Start the VMs again, where hosts are up.")
        ] = False,
        show: Annotated[
            bool, typer.Option("--show", help="Change nothing; show how far the hosts are.")
        ] = False,
        wait: Annotated[bool, typer.Option("--wait", help="Wait until all guests are off.")] = False,
        timeout: Annotated[
            float, typer.Option("--timeout", metavar="S", min=0.1, help="Maximum wait, seconds.")
        ] = 600.0,
        yes: Yes = False,
        reason: Reason = "",
    ) -> None:
        """Stop every guest and keep each VM on its host, so that all hosts can be switched off.

        Hosts that boot again start their VMs. Hosts that are still up after the time do, too.
        """
        from metastack.commands.cluster import shutdown as commands
        from metastack.commands.request import new_request

        frame = frame_of(ctx)
        if show:
            view = with_cluster(frame, commands.show_shutdown)
        elif cancel:
            request = new_request(reason)
            ended = with_cluster(frame, lambda cluster: commands.cancel_shutdown(cluster, request))
            view = commands.ShutdownView(on=False)
            note(frame, "cluster: the shutdown is cancelled" if ended else "cluster: no shutdown is on")
        else:
            commands.check_shutdown(reason, within)
            confirm("Shut the cluster down? Every guest is asked to stop now.", yes)
            request = new_request(reason)
            view = with_cluster(frame, lambda cluster: commands.begin_shutdown(cluster, request, within))
            note(frame, f"cluster: {commands.in_words(view)}")
            if wait:
                view = with_cluster(
                    frame,
                    lambda cluster: commands.wait_off(
                        cluster, timeout, lambda told: note(frame, f"cluster: {told}")
                    ),
                )
                note(frame, "cluster: every guest is off; switch the hosts off now")
        _printer(frame).one(view, detail=True)
