"""The frame of every command: options that all of them take, lazily imported nouns, light argument parsing.

Owns: ``-o``, ``--context``, ``--endpoint`` and how typer is used. Refuses: doing a command's work.
Rule: nothing is imported before it is needed; ``--help`` of the whole program imports no noun.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from typing import Annotated, Any, ClassVar, Final, get_args, get_origin

import typer
from typer import _click, core
from typer._click.formatting import HelpFormatter
from typer._click.shell_completion import CompletionItem
from typer.main import (
    _get_params_name_from_function,
    get_command,
    get_command_from_info,
    get_command_name,
    get_group,
)
from typer.models import CommandInfo


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


def _common_params() -> list[Any]:
    return list(_get_params_name_from_function(_common)[0])


class Verb(core.TyperCommand):
    """A command with the common options."""

    def __init__(self, name: str | None, **attrs: Any) -> None:
        attrs["params"] = [*(attrs.get("params") or ()), *_common_params()]
        super().__init__(name, **attrs)


class Noun(core.TyperGroup):
    """A group of verbs, each built when it is called: building all of them costs 20 ms."""

    def __init__(self, **attrs: Any) -> None:
        super().__init__(**attrs)
        self._infos: dict[str, CommandInfo] = {}

    def adopt(self, infos: list[CommandInfo]) -> None:
        """Take the verbs, unbuilt; nouns inside this one are built already, and few."""
        for info in infos:
            assert info.callback is not None
            self._infos[info.name or get_command_name(info.callback.__name__)] = info
        for inner in self.commands.values():
            _told_whole(inner)
        self.commands = {**self.commands, **dict.fromkeys(self._infos)}  # type: ignore[dict-item]

    def get_command(self, ctx: _click.Context, cmd_name: str) -> _click.Command | None:
        if cmd_name in self._infos:
            info = self._infos.pop(cmd_name)
            built = get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode=None)
            self.commands[cmd_name] = built
            _told_whole(built)
        return super().get_command(ctx, cmd_name)


@dataclass(frozen=True)
class Lazy:
    """Where a noun's ``app`` is, and its line in the help."""

    module: str
    help: str


class NoReader(Exception):
    """Whoever read our output has gone."""


class Root(core.TyperGroup):
    """The program: nouns that are imported when they are called."""

    nouns: ClassVar[dict[str, Lazy]] = {}

    def __init__(self, **attrs: Any) -> None:
        attrs["params"] = [*(attrs.get("params") or ()), *_common_params()]
        super().__init__(**attrs)
        # Names for suggestions; the commands themselves come from get_command.
        self.commands = dict.fromkeys(self.nouns)  # type: ignore[assignment]

    def get_command(self, ctx: _click.Context, cmd_name: str) -> _click.Command | None:
        lazy = self.nouns.get(cmd_name)
        if lazy is None:
            return None
        app = importlib.import_module(lazy.module).app
        app._add_completion = False  # the program installs its completion, not a noun
        command = _built(app)
        command.name = cmd_name
        return command

    def invoke(self, ctx: _click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise NoReader from None  # typer would make it a failure

    def format_commands(self, ctx: _click.Context, formatter: HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.help) for name, lazy in self.nouns.items()])

    def shell_complete(self, ctx: _click.Context, incomplete: str) -> list[CompletionItem]:
        names = [CompletionItem(name) for name in self.nouns if name.startswith(incomplete)]
        return [*names, *_click.Command.shell_complete(self, ctx, incomplete)]


def _told_whole(command: _click.Command) -> None:
    """In a list of commands a verb has its whole first sentence; what does not fit goes on in a second line."""
    said = " ".join((command.help or "").partition("\n\n")[0].split())
    command.short_help = command.short_help or re.split(r"(?<=\.) ", said)[0]


def _built(app: typer.Typer) -> _click.Command:
    """A typer app as a command; a noun of ours without its verbs being built."""
    if app.info.cls is not Noun:
        command = get_command(app)
        for one in getattr(command, "commands", {}).values():
            _told_whole(one)
        return command
    infos, app.registered_commands = app.registered_commands, []
    try:
        group = get_group(app)
    finally:
        app.registered_commands = infos
    assert isinstance(group, Noun)
    group.adopt(infos)
    return group


def noun(name: str, help: str) -> typer.Typer:
    """A group of verbs in our style."""
    return typer.Typer(
        name=name,
        help=help,
        cls=Noun,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=False,
    )


def verb(app: typer.Typer, name: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Register a verb with the common options."""
    return app.command(name, cls=Verb)


# ---------------------------------------------------------------------------------------------------------
# Light parsing. This typer converts every value with pydantic, whose import alone costs 60 ms of CPU. Plain
# types need none of it. Where typer changes inside, its own way is taken: slower, and just as right.


class _Plain:
    """Turns the text of one parameter into str, int, float, bool or an enum."""

    def __init__(self, convert: Callable[[str], Any], wanted: str) -> None:
        self._convert = convert
        self._wanted = wanted

    def coerce(self, value: Any, param: Any, ctx: Any) -> Any:
        many = param.multiple or param.nargs == -1
        if value is None:
            return () if many else None
        if many:
            return tuple(self._one(item, param, ctx) for item in value)
        return self._one(value, param, ctx)

    def _one(self, value: Any, param: Any, ctx: Any) -> Any:
        try:
            found = self._convert(value)
        except ValueError:
            raise typer.BadParameter(f"{value!r} is not {self._wanted}.", ctx=ctx, param=param) from None
        low, high = param.min, param.max
        if (low is not None and found < low) or (high is not None and found > high):
            bounds = f"from {low} to {high}" if high is not None else f"{low} or more"
            raise typer.BadParameter(f"{value!r} is out of range: {bounds}.", ctx=ctx, param=param)
        return found


_BOOLS: Final = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False}


def _as_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    try:
        return _BOOLS[str(value).lower()]
    except KeyError:
        raise ValueError(value) from None


def _plain(annotation: Any) -> _Plain | None:
    """A light converter, or None where typer's own is needed."""
    if get_origin(annotation) is list:
        annotation = get_args(annotation)[0]
    if annotation is str:
        return _Plain(str, "a text")
    if annotation is int:
        return _Plain(lambda value: int(value), "a whole number")
    if annotation is float:
        return _Plain(_as_float, "a number")
    if annotation is bool:
        return _Plain(_as_bool, "true or false")
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        kind = annotation
        return _Plain(kind, "one of " + ", ".join(str(item.value) for item in kind))
    return None


def _as_float(value: Any) -> float:
    found = float(value)
    if found != found or found in (float("inf"), float("-inf")):
        raise ValueError(value)
    return found


def parse_lightly() -> None:
    """Make typer convert plain types without pydantic, in this process."""
    original = core._TyperParameter.get_runtime_param
    if getattr(original, "light", False):
        return

    def get_runtime_param(self: Any) -> Any:
        if self._runtime_param is None:
            self._runtime_param = _plain(self.type_descriptor.annotation)
        return original(self)

    get_runtime_param.light = True  # type: ignore[attr-defined]
    core._TyperParameter.get_runtime_param = get_runtime_param  # type: ignore[method-assign]
