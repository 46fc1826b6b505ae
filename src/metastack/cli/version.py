"""``metastack version``. Owns: nothing but the answer. Refuses: connecting. Rule: it always works."""

from __future__ import annotations

import platform

import typer
from msgspec import Struct

from metastack import __version__

from .frame import Output, frame_of, verb

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class Version(Struct):
    """What this program is."""

    version: str
    python: str


@verb(app)
def version(ctx: typer.Context) -> None:
    """Print this program's version."""
    from .output import Printer

    frame = frame_of(ctx)
    if frame.output in (Output.TABLE, Output.WIDE):
        print(__version__)
        return
    Printer[Version](frame.output, [], lambda v: v.version).one(Version(__version__, platform.python_version()))
