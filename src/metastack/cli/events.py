"""``metastack events``: who did what to which object, when and why.

Owns: the verb's options and what it prints.
Refuses: choosing events (:mod:`metastack.commands.cluster.events`).
Rule: oldest first, so that the last line is the newest, also with ``--watch``.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from .frame import Frame, frame_of, verb
from .session import with_cluster

if TYPE_CHECKING:
    from metastack.commands.cluster.events import EventView
    from metastack.commands.request import Cluster

    from .output import Printer

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def _printer(frame: Frame) -> Printer[EventView]:
    from .output import Column, Printer

    columns: list[Column[EventView]] = [
        Column("AT", lambda v: v.at),
        Column("BY", lambda v: v.by),
        Column("WHAT", lambda v: "broken" if v.broken else v.what),
        Column("OBJECT", lambda v: v.object),
        Column("REASON", lambda v: v.reason),
        Column("REQUEST", lambda v: v.request_id, wide=True),
        Column("MESSAGE", lambda v: v.message),
    ]
    return Printer(frame.output, columns, lambda v: v.id)


@verb(app)
def events(
    ctx: typer.Context,
    object: Annotated[
        str,
        typer.Option(
            "--object", metavar="X", help="Only events of this object: hello, 'vm hello', 'node n1', config."
        ),
    ] = "",
    since: Annotated[
        str, typer.Option("--since", metavar="T", help="Only later events: 90s, 15m, 1h, 2d, or a time.")
    ] = "",
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep printing new events.")] = False,
) -> None:
    """List the changes of objects: author, time and reason; oldest first."""
    from metastack.commands.cluster.events import EventFilter, follow_events, list_events, since_ms

    now_ms = time.time_ns() // 1_000_000
    frame, wanted = frame_of(ctx), EventFilter(object=object, since_ms=since_ms(since, now_ms))
    printer = _printer(frame)

    async def work(cluster: Cluster) -> None:
        revision, found = await list_events(cluster, wanted, now_ms)
        if not watch:
            printer.list(found)
            return
        printer.stream(found)
        async for more in follow_events(cluster, wanted, revision):
            printer.stream(more)

    with_cluster(frame, work)
