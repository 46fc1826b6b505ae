"""``metastack cluster``: what concerns the cluster as a whole.

Owns: options, and the words that a person reads before saying yes.
Refuses: rules about restores (:mod:`metastack.commands.cluster.restore`).
Rule: a restore wants a reason, and a yes.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..frame import Frame, frame_of, noun, verb
from ..session import confirm, note, with_cluster
from . import storage as cluster_storage
from . import upgrade as cluster_upgrade

if TYPE_CHECKING:
    from metastack.commands.cluster.restore import RestoreView

    from ..output import Printer

app = noun("cluster", "The cluster as a whole: its storage, upgrades, a restored etcd.")


@app.callback()
def _cluster() -> None:
    """The cluster as a whole: its storage, upgrades, a restored etcd."""


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
        f"After a restore of etcd from a backup: its generation becomes {view.generation}, from {view.before}.",
        "Every session ends; nodes come back by themselves. Nothing is started until each of these is back, "
        f"or was fenced by hand: {', '.join(view.waits_for) or 'none'}.",
        f"Go on running: {', '.join(view.runs_on) or 'none that is known'}.",
        f"Are killed, their disks stay: {', '.join(view.ends) or 'none that is known'}.",
    ]
    if view.unaware:
        lines.append(f"Have noticed no restore: {', '.join(view.unaware)}. Was there one?")
    lines += [
        "First make sure, for no record can tell:",
        "  - no member of the etcd of before answers anybody any more;",
        "  - no host runs guests that is not named above: one that joined after the backup, and is silent.",
    ]
    for line in lines:
        print(clean(line), file=sys.stderr)


@verb(app)
def restore(
    ctx: typer.Context,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Which backup, and why; kept.")] = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what it would do.")] = False,
) -> None:
    """Let an etcd be used that was restored from a backup.

    It raises its generation.
    """
    from metastack.commands.cluster.restore import check_restore_reason, look_at_restore, restore_cluster
    from metastack.commands.request import new_request

    frame = frame_of(ctx)
    if not dry_run:
        check_restore_reason(reason)
    view = with_cluster(frame, look_at_restore)
    if not dry_run:
        _explain(view)
        confirm("Is all that so?", yes)
        request = new_request(reason)
        view = with_cluster(frame, lambda cluster: restore_cluster(cluster, request))
        note(frame, f"generation {view.generation}: `metastack status` says who is waited for")
    _printer(frame).one(view, detail=True)


cluster_upgrade.mount(app)
app.add_typer(cluster_storage.app)
