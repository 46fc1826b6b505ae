"""``metastack cluster upgrade-check`` and ``upgrade-finish``: the first and the last step of an upgrade.

Owns: options, and the words that a person reads before saying yes.
Refuses: judging (:mod:`metastack.commands.upgrade_check`, :mod:`metastack.commands.cluster.upgrade`).
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from ..frame import Frame, Output, Reason, Yes, frame_of, verb
from ..session import confirm, note, with_cluster

if TYPE_CHECKING:
    from metastack.commands.cluster.upgrade_views import UpgradeView

    from ..output import Printer


def _printer(frame: Frame) -> Printer[UpgradeView]:
    from ..output import Column, Printer

    columns: list[Column[UpgradeView]] = [
        Column("LEVEL", lambda v: str(v.level)),
        Column("BEFORE", lambda v: str(v.before)),
        Column("DONE", lambda v: "yes" if v.done else "no"),
        Column("BEHIND", lambda v: v.behind),
        Column("SILENT", lambda v: v.silent),
        Column("RECORDS", lambda v: v.records, wide=True),
        Column("WITHOUT", lambda v: v.without, wide=True),
    ]
    return Printer(frame.output, columns, lambda v: f"level {v.level}")


def _explain(view: UpgradeView) -> None:
    from ..output import clean

    lines = [
        f"From now on the cluster writes records of level {view.level} instead of {view.before}:",
        f"  {', '.join(view.records) or 'no kind of record changes'}.",
        "Agents and commands of the previous release cannot read them: a downgrade is no longer possible.",
        "Existing records stay unchanged; no VM is stopped or moved.",
    ]
    if view.without:
        lines.append(f"Not alive: {', '.join(view.without)}. Upgrade their agents before they return.")
    for line in lines:
        print(clean(line), file=sys.stderr)


def mount(app: typer.Typer) -> None:
    """Put the verbs under ``cluster``."""

    @verb(app, "upgrade-check")
    def upgrade_check(ctx: typer.Context) -> None:
        """Show what blocks an upgrade to this program's release; exit 1 if anything does.

        It checks etcd and what agents report. Disks and packages of the hosts are out of its reach.
        """
        from datetime import UTC, datetime

        from metastack import __version__
        from metastack.commands.doctor.facts import collect
        from metastack.commands.upgrade_check import UpgradeCheck, check_upgrade

        from ..findings import tell
        from ..output import Printer

        frame = frame_of(ctx)
        facts = with_cluster(frame, lambda cluster: collect(cluster, __version__, datetime.now(UTC)))
        view = check_upgrade(facts)
        if frame.output in (Output.TABLE, Output.WIDE):
            tell(frame, view.findings)
            note(frame, f"an upgrade to {view.version} {'may begin' if view.ready else 'is blocked'}")
        else:
            printer: Printer[UpgradeCheck] = Printer(frame.output, [], lambda v: v.version)
            printer.one(view)
        if not view.ready:
            raise typer.Exit(1)

    @verb(app, "upgrade-finish")
    def upgrade_finish(
        ctx: typer.Context,
        without: Annotated[
            list[str] | None,
            typer.Option("--without", metavar="NODE", help="Ignore a node that is switched off; repeatable."),
        ] = None,
        reason: Reason = "",
        yes: Yes = False,
        dry_run: Annotated[
            bool, typer.Option("--dry-run", help="Show the effect only; change nothing.")
        ] = False,
    ) -> None:
        """Finish an upgrade: write records of this release, once every agent runs it.

        Until then, agents of the previous release can read all records, and a downgrade is possible.
        """
        from metastack.commands.cluster.upgrade import finish_upgrade, look_at_upgrade
        from metastack.commands.request import new_request

        frame, left_out = frame_of(ctx), tuple(without or ())
        view = with_cluster(frame, lambda cluster: look_at_upgrade(cluster, left_out))
        if view.done:
            note(frame, f"cluster: already writes records of level {view.level}")
        elif not dry_run:
            if not view.behind and view.without == view.silent:
                _explain(view)  # who is refused is told why, and asked nothing
                confirm("Is every agent and every CLI upgraded?", yes)
            request = new_request(reason)
            view = with_cluster(frame, lambda cluster: finish_upgrade(cluster, request, left_out))
            note(frame, f"cluster: now writes records of level {view.level}")
        _printer(frame).one(view, detail=True)
