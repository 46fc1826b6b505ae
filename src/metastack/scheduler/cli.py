"""``metastack scheduler``: run one, see who is at work."""

from __future__ import annotations

import socket
import sys
from enum import StrEnum
from typing import Annotated

import typer

from ..cli.frame import Output, frame_of, noun, verb
from ..cli.session import context_of, with_cluster

app = noun("scheduler", "The optional scheduler: placement hints for pending VMs.")


class LogFormat(StrEnum):
    AUTO = "auto"
    JSON = "json"
    CONSOLE = "console"


class LogLevel(StrEnum):
    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@verb(app)
def run(
    ctx: typer.Context,
    name: Annotated[
        str, typer.Option("--name", metavar="NAME", help="Of this scheduler; default: the host's name.")
    ] = "",
    ttl: Annotated[
        int,
        typer.Option(
            "--ttl",
            metavar="S",
            min=2,
            max=60,
            help="Lifetime of its lease and hints; then another scheduler leads.",
        ),
    ] = 5,
    log_format: Annotated[
        LogFormat,
        typer.Option(
            "--log-format", help="auto: readable on a terminal, to the journal under systemd, JSON otherwise."
        ),
    ] = LogFormat.AUTO,
    log_level: Annotated[
        LogLevel, typer.Option("--log-level", help="Least severe event to log.")
    ] = LogLevel.INFO,
) -> None:
    """Run a scheduler until SIGTERM. Any number may run; one of them leads."""
    from ..commands import names

    settings = context_of(frame_of(ctx)).store
    name = names.name("--name", name or socket.gethostname().split(".")[0].lower())
    # structlog loads rich when it finds it, for tracebacks in colour that nobody prints: 5 MB and 40 ms.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    from .main import run as run_scheduler

    raise typer.Exit(run_scheduler(settings, name, ttl, log_format.value, log_level.value))


@verb(app)
def show(ctx: typer.Context) -> None:
    """Show the leading scheduler and its open hints."""
    from ..cli.output import Column, Printer
    from ..commands.capacity.balance import HintView, SchedulerView, scheduler_view

    frame = frame_of(ctx)
    view = with_cluster(frame, scheduler_view)
    if frame.output not in (Output.TABLE, Output.WIDE):
        whole: Printer[SchedulerView] = Printer(frame.output, [], lambda v: v.leader or "")
        whole.one(view)
        return
    if view.leader is None:
        print("no scheduler leads: the nodes place VMs alone")
    else:
        print(f"{view.leader} leads since {view.since} (term {view.term})")
    columns: list[Column[HintView]] = [
        Column("NAME", lambda v: v.name),
        Column("PROJECT", lambda v: v.project),
        Column("NODE", lambda v: v.node),
        Column("BY", lambda v: v.by),
    ]
    if view.hints:
        Printer(frame.output, columns, lambda v: v.name).list(view.hints)
