"""``metastack status``: is the cluster fine?

Owns: what is printed first. Refuses: judging (:mod:`metastack.commands.cluster.status`).
Rule: the first line says it all, and so does the exit status: 0 it is fine, 1 it is not.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from .frame import Output, frame_of, verb
from .session import with_cluster

if TYPE_CHECKING:
    from metastack.commands.cluster.status import ClusterView
    from metastack.commands.request import Cluster

app = typer.Typer(rich_markup_mode=None, add_completion=False)


@verb(app)
def status(
    ctx: typer.Context,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Print nothing; only set the exit status.")
    ] = False,
) -> None:
    """Show whether the cluster is healthy, then its problems; exit 1 if there are any."""
    from metastack.commands.cluster.maintenance import left_s
    from metastack.commands.cluster.status import cluster_view
    from metastack.commands.doctor.facts import alarms
    from metastack.commands.reading import EVERYTHING, read_world

    from .output import Printer, clean, paint, text_of

    frame = frame_of(ctx)

    async def work(cluster: Cluster) -> ClusterView:
        # Side by side: an endpoint that is down costs its time only once.
        world, raised = await asyncio.gather(
            read_world(cluster, cluster.keys.prefixes(EVERYTHING)), alarms(cluster)
        )
        return cluster_view(world, raised, await left_s(cluster, world))

    view = with_cluster(frame, work)
    if quiet:
        pass
    elif frame.output not in (Output.TABLE, Output.WIDE):
        printer: Printer[ClusterView] = Printer(frame.output, [], lambda v: "ok" if v.ok else "not ok")
        printer.one(view)
    else:
        print(paint(clean(view.summary), "ok" if view.ok else "not ok", sys.stdout))
        # The first line has the first problem already.
        for problem in view.problems[1:]:
            print(f"  {clean(problem)}")
        for said in view.notes:
            print(f"  note: {clean(said)}")
        print(f"nodes  {text_of(view.nodes)}")
        print(f"vms    {text_of(view.vms)}")
    if not view.ok:
        raise typer.Exit(1)
