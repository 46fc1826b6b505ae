"""``metastack config``: the platform's configuration.

Owns: the verbs' options and what they print. Refuses: types and bounds (:mod:`metastack.commands.settings`).
Rule: all settings of one call are written together or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .complete import setting_names
from .frame import Frame, frame_of, noun, verb
from .session import note, with_cluster

if TYPE_CHECKING:
    from metastack.commands.deed import Cluster
    from metastack.commands.settings import Setting

    from .output import Printer

app = noun("config", "The platform's configuration.")


def _printer(frame: Frame) -> Printer[Setting]:
    from .output import Column, Printer

    columns: list[Column[Setting]] = [
        Column("KEY", lambda v: v.key),
        Column("VALUE", lambda v: v.value),
        Column("DEFAULT", lambda v: v.default),
        Column("CHANGED", lambda v: "yes" if v.changed else None),
    ]
    return Printer(frame.output, columns, lambda v: v.key)


@verb(app)
def show(ctx: typer.Context) -> None:
    """Show every setting."""
    from metastack.commands.settings import show_settings

    frame = frame_of(ctx)
    _printer(frame).list(with_cluster(frame, show_settings))


@verb(app, "set")
def set_(
    ctx: typer.Context,
    pairs: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", autocompletion=setting_names)],
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; kept with the change.")] = "",
) -> None:
    """Change settings; the agents follow at once."""
    from metastack.commands import names
    from metastack.commands.deed import new_deed
    from metastack.commands.settings import parse_settings, set_settings, show_settings

    frame = frame_of(ctx)
    values = parse_settings(list(pairs))
    deed = new_deed(names.reason(reason))

    async def work(cluster: Cluster) -> list[Setting]:
        changed = await set_settings(cluster, deed, values)
        note(frame, "config: changed" if changed else "config: is so already")
        return [setting for setting in await show_settings(cluster) if setting.key in values]

    _printer(frame).list(with_cluster(frame, work))
