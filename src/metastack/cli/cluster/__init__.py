"""``metastack cluster``: what concerns the cluster as a whole.

Owns: options, and the words that a person reads before saying yes.
Refuses: rules about restores (:mod:`metastack.commands.cluster.restore`).
Rule: a restore wants a reason, and a yes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..frame import Frame, Yes, frame_of, noun, reason_option, verb
from ..session import confirm, note, with_cluster
from . import maintenance as cluster_maintenance
from . import storage as cluster_storage
from . import upgrade as cluster_upgrade

if TYPE_CHECKING:
    from metastack.commands.cluster.restore import RestoreView

    from ..output import Printer

app = noun("cluster", "The cluster: maintenance, storage, upgrades, restores of etcd.")


@app.callback()
def _cluster() -> None:
    """The cluster: maintenance, storage, upgrades, restores of etcd."""


def _printer(frame: Frame) -> Printer[RestoreView]:
    from ..output import Column, Printer

    columns: list[Column[RestoreView]] = [
        Column("GENERATION", lambda v: str(v.generation)),
        Column("BEFORE", lambda v: str(v.before)),
        Column("WAITS-FOR", lambda v: v.waits_for),
        Column("RUNS-ON", lambda v: v.runs_on),
        Column("ENDS", lambda v: v.ends),
        Column("REFUSING", lambda v: v.refusing, wide=True),
        Column("UNAWARE", lambda v: v.unaware, wide=True),
    ]
    return Printer(frame.output, columns, lambda v: f"generation {v.generation}")


def _explain(view: RestoreView) -> None:
    from ..output import clean

    lines = [
        f"Restoring raises the generation of etcd from {view.before} to {view.generation}.",
        "Every node session ends, and nodes return by themselves. No VM starts until each of these nodes has "
        f"returned or was fenced by hand: {', '.join(view.waits_for) or 'none'}.",
        f"Keep running: {', '.join(view.runs_on) or 'none known'}.",
        f"Are killed, with their disks kept: {', '.join(view.ends) or 'none known'}.",
    ]
    if view.unaware:
        lines.append(f"Nodes that noticed no restore: {', '.join(view.unaware)}. Check that etcd was restored.")
    lines += [
        "First check what no record can prove:",
        "  - no member of the previous etcd cluster still serves clients;",
        "  - no unlisted host runs guests, such as an unreachable one that joined after the backup.",
    ]
    for line in lines:
        print(clean(line), file=sys.stderr)


@verb(app)
def restore(
    ctx: typer.Context,
    reason: Annotated[str, reason_option("Name of the backup, and the reason; recorded.")] = "",
    yes: Yes = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the effect only; change nothing.")] = False,
) -> None:
    """Confirm that etcd was restored from a backup, and raise its generation."""
    from metastack.commands.cluster.restore import check_restore_reason, look_at_restore, restore_cluster
    from metastack.commands.request import new_request

    frame = frame_of(ctx)
    if not dry_run:
        check_restore_reason(reason)
    view = with_cluster(frame, look_at_restore)
    if not dry_run:
        _explain(view)
        confirm("Have you checked both?", yes)
        request = new_request(reason)
        view = with_cluster(frame, lambda cluster: restore_cluster(cluster, request))
        note(frame, f"generation {view.generation}: `metastack status` shows the nodes that have not returned")
    _printer(frame).one(view, detail=True)


cluster_upgrade.mount(app)
cluster_maintenance.mount(app)
app.add_typer(cluster_storage.app)
