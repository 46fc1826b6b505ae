"""``metastack cluster restore``: a member's data from a backup; then, once, the word that etcd was restored.

Owns: options, and the words that a person reads before saying yes.
Refuses: rules (:mod:`metastack.commands.cluster.restore`, :mod:`metastack.commands.cluster.restore_member`).
Rule: raising the generation wants a reason, and a yes; a member's restore writes only what was not there.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..frame import Frame, Yes, frame_of, reason_option, verb
from ..session import confirm, note, with_cluster

if TYPE_CHECKING:
    from metastack.commands.cluster.restore import RestoreView
    from metastack.commands.cluster.restore_member import MemberRestore

    from ..output import Printer


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


def _confirm(frame: Frame, reason: str, yes: bool, dry_run: bool) -> None:
    from metastack.commands.cluster.restore import check_restore_reason, look_at_restore, restore_cluster
    from metastack.commands.request import new_request

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


def _member(frame: Frame, plan: MemberRestore, dry_run: bool) -> None:
    import shlex

    from metastack.commands.cluster.restore_member import restore_member

    from ..output import Column, Printer

    note(frame, f"{'would run' if dry_run else 'runs'}: {shlex.join(plan.command)}")
    view = plan if dry_run else restore_member(plan)
    if view.done:
        note(frame, f"{view.data_dir} holds the data of {view.name}. Next:")
        for step in view.next:
            note(frame, f"  {step}")
    columns: list[Column[MemberRestore]] = [
        Column("MEMBER", lambda v: v.name),
        Column("DONE", lambda v: v.done),
        Column("DATA-DIR", lambda v: v.data_dir),
        Column("TOKEN", lambda v: v.token),
        Column("REVISION", lambda v: v.revision),
        Column("TOOL", lambda v: f"{v.command[0]} {v.tool_version}", wide=True),
    ]
    Printer(frame.output, columns, lambda v: v.name).one(view)


def mount(app: typer.Typer) -> None:
    """Put the verb under ``cluster``."""

    @verb(app, "restore")
    def restore(
        ctx: typer.Context,
        file: Annotated[
            Path | None,
            typer.Argument(metavar="[FILE]", help="Restore this host's etcd member from this backup."),
        ] = None,
        initial_cluster: Annotated[
            str,
            typer.Option("--initial-cluster", metavar="NAME=URL,…", help="Members and peer URLs, with FILE."),
        ] = "",
        name: Annotated[str, typer.Option("--name", help="This host's member, with FILE.")] = "",
        data_dir: Annotated[
            Path | None,
            typer.Option("--data-dir", metavar="FOLDER", help="New data folder of that member, with FILE."),
        ] = None,
        token: Annotated[
            str,
            typer.Option("--token", help="Word for the new etcd cluster. [default: from the backup]"),
        ] = "",
        reason: Annotated[str, reason_option("Name of the backup, and the reason; recorded.")] = "",
        yes: Yes = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Show the effect only; change nothing.")
        ] = False,
    ) -> None:
        """With FILE: restore one etcd member. Without: confirm the restore, and raise etcd's generation.

        Restore every member first, then confirm once.
        """
        from metastack.commands.cluster.restore_member import check_options, plan_member

        frame = frame_of(ctx)
        check_options(file, (initial_cluster, name, str(data_dir or ""), token), reason)
        if file is None:
            _confirm(frame, reason, yes, dry_run)
        else:
            _member(frame, plan_member(file, initial_cluster, name, data_dir, token), dry_run)
