"""``metastack config``: the platform's configuration.

Owns: the verbs' options and what they print.
Refuses: types and bounds (:mod:`metastack.commands.cluster.settings`).
Rule: all settings of one call are written together or not at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from .complete import setting_keys, setting_names
from .frame import Frame, Reason, frame_of, noun, verb
from .session import context_of, note, with_cluster

if TYPE_CHECKING:
    from metastack.commands.cluster.settings import Setting
    from metastack.commands.request import Cluster

    from .output import Printer

app = noun("config", "Settings of the cluster.")


def _printer(frame: Frame) -> Printer[Setting]:
    from .output import Column, Printer

    columns: list[Column[Setting]] = [
        Column("KEY", lambda v: v.key),
        Column("VALUE", lambda v: v.value),
        Column("DEFAULT", lambda v: v.default),
        Column("CHANGED", lambda v: "yes" if v.changed else None),
        Column("RANGE", lambda v: v.range, wide=True),
        Column("MEANING", lambda v: v.description, wide=True),
    ]
    return Printer(frame.output, columns, lambda v: v.key)


@verb(app)
def show(ctx: typer.Context) -> None:
    """Show every setting.

    `-o wide` shows the permitted values and the meaning of each.
    """
    from metastack.commands.cluster.settings import show_settings

    frame = frame_of(ctx)
    _printer(frame).list(with_cluster(frame, show_settings))


@verb(app, "set")
def set_(
    ctx: typer.Context,
    pairs: Annotated[list[str], typer.Argument(metavar="KEY=VALUE...", autocompletion=setting_names)],
    reason: Reason = "",
) -> None:
    """Change settings; agents apply them at once."""
    from metastack.commands.cluster.settings import parse_settings

    _write(frame_of(ctx), reason, parse_settings(list(pairs)), "config.set")


@verb(app)
def unset(
    ctx: typer.Context,
    keys: Annotated[list[str], typer.Argument(metavar="KEY...", autocompletion=setting_keys)],
    reason: Reason = "",
) -> None:
    """Reset settings to their defaults."""
    from metastack.commands.cluster.settings import defaults_of

    _write(frame_of(ctx), reason, defaults_of(list(keys)), "config.unset")


def _write(frame: Frame, reason: str, values: dict[str, Any], what: str) -> None:
    from metastack.commands.cluster.settings import set_settings, show_settings
    from metastack.commands.request import new_request

    request = new_request(reason)

    async def work(cluster: Cluster) -> list[Setting]:
        changed = await set_settings(cluster, request, values, what)
        note(frame, "config: changed" if changed else "config: unchanged")
        if changed and "storage_lost_s" in values and context_of(frame).store.cert:
            note(frame, "run `metastack cluster apply-rights` on the management host: nodes' rights follow it")
        return [setting for setting in await show_settings(cluster) if setting.key in values]

    _printer(frame).list(with_cluster(frame, work))
