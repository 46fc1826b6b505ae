"""The frame of every command: options that all of them take, and nouns that are imported when they are called.

Owns: ``-o``, ``--context``, ``--endpoint``, ``--reason``, ``--yes`` and how typer is used.
Refuses: doing a command's work.
Rule: nothing is imported before it is needed; ``--help`` of the whole program imports no noun.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command


class Output(StrEnum):
    """How data is printed."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"
    NAME = "name"


@dataclass
class Frame:
    """What was said on the command line before and beside the verb's own options."""

    output: Output = Output.TABLE
    context: str = ""
    endpoints: tuple[str, ...] = ()


def frame_of(ctx: typer.Context) -> Frame:
    """The frame of this invocation."""
    found = ctx.find_root().obj
    return found if isinstance(found, Frame) else Frame()


# ---------------------------------------------------------------------------------------------------------
# options that every verb takes


def _output(ctx: typer.Context, value: Output | None) -> None:
    if value is not None:
        frame_of(ctx).output = value


def _context(ctx: typer.Context, value: str | None) -> None:
    if value:
        frame_of(ctx).context = value


def _endpoints(ctx: typer.Context, value: list[str] | None) -> None:
    found = tuple(part.strip() for text in value or () for part in text.split(",") if part.strip())
    if found:
        frame_of(ctx).endpoints = found


def _context_names(incomplete: str) -> list[str]:
    from metastack.contexts import ContextError, load

    try:
        return sorted(load().contexts)
    except ContextError:
        return []


def _common(
    output: Annotated[
        Output | None,
        typer.Option("-o", "--output", callback=_output, expose_value=False, help="Output format."),
    ] = None,
    context: Annotated[
        str | None,
        typer.Option(
            "--context",
            callback=_context,
            expose_value=False,
            autocompletion=_context_names,
            metavar="NAME",
            help="Context to use; METASTACK_CONTEXT.",
        ),
    ] = None,
    endpoint: Annotated[
        list[str] | None,
        typer.Option(
            "--endpoint",
            callback=_endpoints,
            expose_value=False,
            metavar="URL",
            help="etcd endpoint, repeatable; METASTACK_ENDPOINTS.",
        ),
    ] = None,
) -> None:
    """The options that every verb has; the callbacks put them into the frame."""


def _reason(value: str) -> str:
    if value:
        from metastack.commands import names

        return names.reason(value)
    return value


def reason_option(help: str) -> Any:
    """``--reason``; a bad one is refused before anything is asked or done."""
    return typer.Option("--reason", metavar="TEXT", callback=_reason, help=help)


Reason = Annotated[str, reason_option("Reason; recorded with the change.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Skip the confirmation.")]


@cache
def _common_params() -> list[Any]:
    app = typer.Typer(add_completion=False)
    app.command()(_common)
    return get_command(app).params


class Verb(TyperCommand):
    """A command with the common options."""

    def __init__(self, name: str | None, **attrs: Any) -> None:
        super().__init__(name, **attrs)
        self.params += _common_params()


class Noun(TyperGroup):
    """A group of verbs; without one it prints its help."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        for command in self.commands.values():
            # The whole first sentence: what does not fit in a line goes on in the next.
            text = " ".join((command.help or "").partition("\n\n")[0].split())
            command.short_help = command.short_help or re.split(r"(?<=\.) ", text)[0]

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not args and not ctx.resilient_parsing and frame_of(ctx).output is not Output.JSON:
            typer.echo(ctx.get_help(), err=True)
            raise typer.Exit(2)
        return super().parse_args(ctx, args)


@dataclass(frozen=True)
class Lazy:
    """Where a noun's ``app`` is, and its line in the help."""

    module: str
    help: str


class NoReader(Exception):
    """The reader of the output has gone."""


class Root(Noun):
    """The program: nouns that are imported when they are called."""

    nouns: ClassVar[dict[str, Lazy]] = {}

    def __init__(self, **attrs: Any) -> None:
        # Placeholders: help, completion and suggestions list them, and import nothing.
        attrs["commands"] = {name: TyperCommand(name, help=lazy.help) for name, lazy in self.nouns.items()}
        super().__init__(**attrs)
        self.params += _common_params()

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, found, rest = super().resolve_command(ctx, args)
        if name is not None:
            found = get_command(importlib.import_module(self.nouns[name].module).app)
            found.name = name
        return name, found, rest

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise NoReader from None  # typer would make it a failure


def noun(name: str, help: str) -> typer.Typer:
    """A group of verbs in our style."""
    return typer.Typer(
        name=name,
        help=help,
        cls=Noun,
        no_args_is_help=True,
        rich_markup_mode=None,
        add_completion=False,
    )


def verb(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a verb with the common options."""
    return app.command(name, cls=Verb)
