"""``metastack context``: the clusters that this machine knows.

Owns: the verbs' options and what they print. Refuses: connecting to anything.
Rule: secrets are files, and only their names are shown.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from .frame import Frame, _context_names, frame_of, noun, verb

if TYPE_CHECKING:
    from metastack.contexts import Context

    from .output import Printer

app = noun("context", "Clusters that this machine knows.")


class ContextView(Struct, kw_only=True):
    """A context as a reader sees it."""

    name: str
    current: bool
    endpoints: list[str]
    root: str
    storage: str | None = None
    netns: str | None = None


def _view(context: Context, current: str) -> ContextView:
    return ContextView(
        name=context.name,
        current=context.name == current,
        endpoints=list(context.store.endpoints),
        root=context.store.root,
        storage=context.storage.kind if context.storage is not None else None,
        netns=context.netns or None,
    )


def _printer(frame: Frame) -> Printer[ContextView]:
    from .output import Column, Printer

    columns: list[Column[ContextView]] = [
        Column("CURRENT", lambda v: "*" if v.current else None),
        Column("NAME", lambda v: v.name),
        Column("STORAGE", lambda v: v.storage),
        Column("ENDPOINTS", lambda v: v.endpoints),
        Column("ROOT", lambda v: v.root, wide=True),
        Column("NETNS", lambda v: v.netns, wide=True),
    ]
    return Printer(frame.output, columns, lambda v: v.name)


@verb(app, "list")
def list_(ctx: typer.Context) -> None:
    """List contexts."""
    from metastack.contexts import ENV_CONTEXT, load

    frame, file = frame_of(ctx), load()
    current = frame.context or os.environ.get(ENV_CONTEXT, "") or file.current
    _printer(frame).list([_view(item, current) for _, item in sorted(file.contexts.items())])


@verb(app)
def use(
    ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=_context_names)]
) -> None:
    """Make a context the current one."""
    from metastack.contexts import load, select_context

    select_context(name)
    _printer(frame_of(ctx)).one(_view(load().contexts[name], name))
