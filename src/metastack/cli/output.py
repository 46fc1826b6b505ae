"""Printing: tables of plain columns, JSON, YAML, names. Colour on a terminal only.

Owns: stdout. Refuses: progress and errors (stderr, :mod:`metastack.cli.session`).
Rule: text from the cluster never reaches a terminal raw: control characters are shown escaped.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any, Final, Generic, TextIO, TypeVar

import msgspec

from .frame import Output
from .streams import printable

T = TypeVar("T")

_COLOURS: Final = {
    "running": "32",
    "ready": "32",
    "ok": "32",
    "failed": "31",
    "lost": "31",
    "broken": "31",
    "not ok": "31",
    "pending": "33",
    "claimed": "33",
    "starting": "33",
    "stopping": "33",
    "cordoned": "33",
    "draining": "33",
    "importing": "33",
    "deleting": "33",
    "paused": "36",
    "migrating": "36",
}


def coloured(stream: TextIO) -> bool:
    """Whether to colour what goes to this stream."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def paint(text: str, word: str, stream: TextIO) -> str:
    """``text`` in the colour that a state or phase has."""
    code = _COLOURS.get(word)
    return f"\x1b[{code}m{text}\x1b[0m" if code and coloured(stream) else text


_ESCAPED: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def clean(text: str) -> str:
    """Text that cannot move the cursor, ring the bell or hide what follows it; bytes of no text are escaped."""
    if not text.isascii():
        text = printable(text)
    return _ESCAPED.sub(lambda match: f"\\x{ord(match[0]):02x}", text)


class Column(Generic[T]):
    """One column: its head and the cell's text."""

    def __init__(self, head: str, cell: Callable[[T], Any], wide: bool = False, if_any: bool = False) -> None:
        """``wide``: of wide tables only; ``if_any``: of others too when one of the first rows has something."""
        self.head = head
        self.cell = cell
        self.wide = wide
        self.if_any = if_any


def text_of(value: Any) -> str:
    """A value as a cell."""
    if value is None or value in ("", [], {}, ()):
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return ",".join(text_of(item) for item in value)
    if isinstance(value, dict):
        return ",".join(f"{key}={text_of(item)}" for key, item in value.items())
    return clean(str(value))


class Table(Generic[T]):
    """Rows under one head; later rows keep the widths of the first ones (``--watch``)."""

    def __init__(self, columns: Sequence[Column[T]], wide: bool, stream: TextIO) -> None:
        self._columns = [column for column in columns if wide or not column.wide]
        self._wide = wide
        self._stream = stream
        self._widths: list[int] | None = None

    def print(self, rows: Sequence[T]) -> None:
        if self._widths is None and not self._wide:
            self._columns = [c for c in self._columns if not c.if_any or any(c.cell(row) for row in rows)]
        cells = [[text_of(column.cell(row)) for column in self._columns] for row in rows]
        lines = cells
        if self._widths is None:
            heads = [column.head for column in self._columns]
            lines = [heads, *cells]
            self._widths = [max(len(line[n]) for line in lines) for n in range(len(heads))]
        out = []
        for line in lines:
            padded = [cell.ljust(width) for cell, width in zip(line, self._widths, strict=True)]
            painted = [paint(pad, cell, self._stream) for pad, cell in zip(padded, line, strict=True)]
            out.append("  ".join(painted).rstrip())
        if out:
            self._stream.write("\n".join(out) + "\n")
            self._stream.flush()


def age(since: str | None) -> str:
    """How long ago, for people: ``12s``, ``5m``, ``3h``, ``9d``."""
    if not since:
        return "-"
    try:
        then = datetime.fromisoformat(since)
        seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    except (ValueError, TypeError):
        return "-"
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size or (unit == "d" and seconds >= size):
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


# ---------------------------------------------------------------------------------------------------------
# YAML out: what JSON can say, in block style. Every text that could mean something else is quoted.

_SAFE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_./@-]*(?: [A-Za-z0-9_./@-]+)*")
_WORDS: Final = frozenset(["true", "false", "yes", "no", "on", "off", "null", "y", "n"])


def to_yaml(value: Any, indent: str = "") -> str:
    """Builtins as a YAML block."""
    if isinstance(value, dict) and value:
        return "".join(f"{_key(_scalar(key), indent)}:{_below(item, indent)}" for key, item in value.items())
    if isinstance(value, list) and value:
        return "".join(f"{indent}-{_item(item, indent)}" for item in value)
    return f"{indent}{_scalar(value)}\n"


def _key(text: str, indent: str) -> str:
    # YAML finds the colon of a plain key within 1024 characters only.
    return f"{indent}{text}" if len(text) < 1000 else f"{indent}? {text}\n{indent}"


def _below(value: Any, indent: str) -> str:
    if isinstance(value, dict | list) and value:
        return "\n" + to_yaml(value, indent + "  ")
    return f" {_scalar(value)}\n"


def _item(value: Any, indent: str) -> str:
    if isinstance(value, dict | list) and value:
        block = to_yaml(value, indent + "  ")
        return " " + block[len(indent) + 2 :]
    return f" {_scalar(value)}\n"


def _yaml_char(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if " " <= char <= "~":
        return char
    return f"\\u{ord(char):04x}" if char <= "\uffff" else f"\\U{ord(char):08x}"


def _scalar(value: Any) -> str:
    if isinstance(value, str):
        if _SAFE.fullmatch(value) and value.lower() not in _WORDS:
            return value
        return '"' + "".join(map(_yaml_char, value)) + '"'
    if isinstance(value, float):
        text = repr(value)  # YAML 1.1 wants a point before the exponent
        return text if "." in text else text.replace("e", ".0e")
    if isinstance(value, dict):
        return "{}"
    if isinstance(value, list):
        return "[]"
    return msgspec.json.encode(value).decode()


# ---------------------------------------------------------------------------------------------------------
# one place that prints


class Printer(Generic[T]):
    """Prints views of one kind in the wanted format."""

    def __init__(
        self, output: Output, columns: Sequence[Column[T]], name: Callable[[T], str], out: TextIO | None = None
    ) -> None:
        self._output = output
        self._name = name
        self._out = out or sys.stdout
        self._columns = columns
        self._table: Table[T] = Table(columns, output is Output.WIDE, self._out)

    def list(self, views: Sequence[T]) -> None:
        """The whole list at once."""
        if self._output is Output.JSON:
            self._json(views)
        elif self._output is Output.YAML:
            self._write(to_yaml(msgspec.to_builtins(views)))
        elif self._output is Output.NAME:
            self._names(views)
        else:
            self._table.print(views)

    def stream(self, views: Sequence[T]) -> None:
        """What changed: a JSON line, a YAML document or a row each."""
        if self._output is Output.JSON:
            self._write("".join(msgspec.json.encode(view).decode() + "\n" for view in views))
        elif self._output is Output.YAML:
            self._write("".join("---\n" + to_yaml(msgspec.to_builtins(view)) for view in views))
        elif self._output is Output.NAME:
            self._names(views)
        else:
            self._table.print(views)

    def one(self, view: T, detail: bool = False, unknown: Collection[str] = ()) -> None:
        """One object: a row, or with ``detail`` a line for each field; empty ones of ``unknown`` say so."""
        if self._output is Output.JSON:
            self._json(view)
        elif self._output is Output.YAML:
            self._write(to_yaml(msgspec.to_builtins(view)))
        elif self._output is Output.NAME:
            self._names([view])
        elif detail:
            self._detail(view, unknown)
        else:
            self._table.print([view])

    def _detail(self, view: T, unknown: Collection[str]) -> None:
        fields = msgspec.to_builtins(view)
        width = max(len(key) for key in fields)
        for key, value in fields.items():
            told = "unknown" if key in unknown and not value else text_of(value)
            self._write(f"{key.ljust(width)}  {paint(told, told, self._out)}\n")

    def _json(self, value: Any) -> None:
        self._write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")

    def _names(self, views: Iterable[T]) -> None:
        self._write("".join(clean(self._name(view)) + "\n" for view in views))

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()
