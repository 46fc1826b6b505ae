"""``metastack cluster backup``: save etcd into a file, or verify one.

Owns: options and printing. Refuses: rules (:mod:`metastack.commands.cluster.backup`).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..frame import Reason, frame_of, verb
from ..session import note, with_cluster

if TYPE_CHECKING:
    from metastack.commands.cluster.backup import BackupView
    from metastack.commands.cluster.backup_file import Verified


def mount(app: typer.Typer) -> None:
    """Put the verb under ``cluster``."""

    @verb(app, "backup")
    def backup(
        ctx: typer.Context,
        file: Annotated[
            Path | None, typer.Argument(metavar="[FILE]", help="File to write; it must not exist.")
        ] = None,
        to: Annotated[
            Path | None, typer.Option("--to", metavar="FOLDER", help="Folder for a file named by time.")
        ] = None,
        keep: Annotated[
            int | None, typer.Option("--keep", min=1, help="Keep this many in the folder; remove older ones.")
        ] = None,
        verify: Annotated[
            Path | None, typer.Option("--verify", metavar="FILE", help="Check this backup; make none.")
        ] = None,
        reason: Reason = "",
    ) -> None:
        """Save etcd into a file that etcd's own tools restore, and verify it.

        A manifest lies beside it: FILE.json. The file holds all that etcd knows; its mode is 0600.
        """
        from metastack.commands.cluster import backup as commands
        from metastack.commands.cluster.backup_file import verified
        from metastack.commands.request import new_request

        from ..output import Printer
        from ..progress import Bar

        frame = frame_of(ctx)
        if verify is not None:
            found = verified(verify)
            note(frame, f"{verify}: is a whole snapshot of etcd")
            checked: Printer[Verified] = Printer(frame.output, [], lambda v: v.file)
            checked.one(found, detail=True)
            return
        commands.check_target(file, to, keep)
        bar, request = Bar(frame, "saving etcd"), new_request(reason)
        try:
            view = with_cluster(frame, lambda cluster: commands.back_up(cluster, request, file, to, keep, bar))
        finally:
            bar.end()
        if view.trouble:
            note(frame, f"the backup is whole, but etcd does not know of it: {view.trouble}")
        printer: Printer[BackupView] = Printer(frame.output, [], lambda v: v.file)
        printer.one(view, detail=True)
