"""``metastack version``. Owns: nothing but the answer. Refuses: connecting. Rule: it always works."""

from __future__ import annotations

import platform

import typer
from msgspec import Struct

from metastack import __version__
from metastack.core.platforms import PLATFORMS, Platform, platform_of, system_of

from .frame import Output, frame_of, verb

app = typer.Typer(rich_markup_mode=None, add_completion=False)


class Version(Struct):
    """What this program is, and what it runs on."""

    version: str
    python: str
    system: str
    """Such as ``debian 13``; empty: this machine does not tell."""
    supported: bool
    """Whether that system is one of the platforms."""
    platforms: tuple[Platform, ...] = PLATFORMS


def system() -> str:
    """The operating system of this machine."""
    try:
        return system_of(platform.freedesktop_os_release())
    except OSError:
        return ""


@verb(app)
def version(ctx: typer.Context) -> None:
    """Print this program's version; -o json adds the platforms that it was tested on."""
    from .output import Printer

    frame = frame_of(ctx)
    if frame.output in (Output.TABLE, Output.WIDE):
        print(__version__)
        return
    here = system()
    told = Version(__version__, platform.python_version(), here, platform_of(here) is not None)
    Printer[Version](frame.output, [], lambda v: v.version).one(told)
