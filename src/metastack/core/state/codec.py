"""Records to JSON and back.

Rule: unknown fields are ignored, a newer ``v`` and bytes that do not parse are refused with an error that
names the key; the caller leaves that object alone and goes on with the rest.
"""

from __future__ import annotations

from functools import cache
from typing import Final, TypeVar, cast

import msgspec

from ..model import Record

R = TypeVar("R", bound=Record)


_UNPARSED: Final = (msgspec.MsgspecError, UnicodeDecodeError)
"""Text that is no UTF-8 has an error of its own."""


class Unreadable(ValueError):
    """A record that does not parse, or is of a newer version: broken for us, left alone."""

    def __init__(self, key: str, why: str) -> None:
        super().__init__(f"{key}: {why}")
        self.key = key
        self.why = why


class _Version(msgspec.Struct):
    v: int = 1


def encode(record: Record) -> bytes:
    """One line of JSON, of the newest version: what was read as an older one is written as a new one."""
    newest = current(type(record))
    return msgspec.json.encode(record if record.v >= newest else msgspec.structs.replace(record, v=newest))


@cache
def current(kind: type[Record]) -> int:
    """Newest version of a record: what its class says."""
    return next(int(field.default) for field in msgspec.structs.fields(kind) if field.name == "v")


@cache
def _decoder(kind: type[Record]) -> msgspec.json.Decoder[Record]:
    return msgspec.json.Decoder(kind)


def decode(kind: type[R], raw: bytes, key: str = "") -> R:
    """Parse a record; raises :class:`Unreadable`.

    Its ``v`` is today's, whatever the bytes say: what a record says does not depend on who wrote it. A node
    that compares what it published with what it would publish finds no difference where only the version
    differs.
    """
    try:
        record = cast(R, _decoder(kind).decode(raw))
    except _UNPARSED as error:
        # A newer version may have fields of other types: then that is what is wrong with it.
        _refuse_newer(kind, raw, key)
        raise Unreadable(key, f"does not parse: {error}") from None
    except RecursionError:
        raise Unreadable(key, "does not parse: nested too deeply") from None
    newest = current(kind)
    if record.v == newest:
        return record
    if record.v > newest:
        _refuse_newer(kind, raw, key)
    return msgspec.structs.replace(record, v=newest)


def _refuse_newer(kind: type[Record], raw: bytes, key: str) -> None:
    try:
        version = msgspec.json.decode(raw, type=_Version).v
    except (*_UNPARSED, RecursionError):
        return
    newest = current(kind)
    if version > newest:
        raise Unreadable(key, f"version {version} is newer than this program reads ({newest})")
