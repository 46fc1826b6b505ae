"""What the program of an older release reads and writes, from its frozen record types.

Owns: decoding and encoding as that release did. Refuses: its behaviour; only its records are kept.
Rule: ``releases/N.json`` was generated once from the last commit that wrote level N, and is never edited.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import msgspec

from ....core.state.codec import Unreadable
from ....core.state.keys import Keys
from ....core.state.record_versions import KINDS
from ....core.transaction import Entry, Put, Transaction

_FOLDER: Final = Path(__file__).parents[1] / "releases"
_PLAIN: Final[dict[str, Any]] = {
    "integer": int, "number": float, "string": str, "boolean": bool, "null": type(None),
}  # fmt: skip


class Older:
    """The codec of one older release."""

    def __init__(self, level: int) -> None:
        self.level = level
        self.schema: dict[str, Any] = json.loads((_FOLDER / f"{level}.json").read_bytes())
        self._types = {name: _struct(said["types"], said["root"]) for name, said in self.schema.items()}

    def newest(self, name: str) -> int:
        """The newest version of that kind of record that it understands."""
        said = self.schema[name]
        return int(said["types"][said["root"]]["properties"]["v"]["default"])

    def decode(self, name: str, value: bytes, key: str = "") -> Any:
        """As it read a record; raises Unreadable as it did."""
        try:
            record = msgspec.json.decode(value, type=self._types[name])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Unreadable(key, f"does not parse at level {self.level}: {error}") from None
        if record.v > self.newest(name):
            raise Unreadable(key, f"version {record.v} is newer than level {self.level} understands")
        return record

    def again(self, name: str, value: bytes, key: str = "") -> bytes:
        """As it wrote what it had read: its newest version, and no field that it does not know."""
        record = self.decode(name, value, key)
        return msgspec.json.encode(msgspec.structs.replace(record, v=self.newest(name)))

    def reads(self, keys: Keys, entry: Entry | Put) -> str:
        """Why it cannot read that; empty: it can, or does not look at such keys."""
        name = self.name(keys, entry.key)
        try:
            if name:
                self.decode(name, entry.value, entry.key)
        except Unreadable as error:
            return str(error)
        return ""

    def writes(self, keys: Keys, change: Transaction) -> Transaction:
        """The change as that release puts it."""
        effects = tuple(
            msgspec.structs.replace(effect, value=self._put(name, effect))
            if isinstance(effect, Put) and (name := self.name(keys, effect.key))
            else effect
            for effect in change.effects
        )
        return msgspec.structs.replace(change, effects=effects)

    def _put(self, name: str, put: Put) -> bytes:
        raw = msgspec.json.decode(put.value)
        return self.again(name, msgspec.json.encode({**raw, "v": 1}), put.key)

    def name(self, keys: Keys, key: str) -> str:
        """The kind of record at a key; empty for what it does not look at."""
        parsed = keys.parse(key)
        name = KINDS.get(parsed.kind, "") if parsed is not None else ""
        return name if name in self._types else ""


@cache
def older(level: int) -> Older:
    """The codec of that level."""
    return Older(level)


def _struct(types: dict[str, Any], root: str) -> Any:
    said = types[root]
    if "enum" in said:
        return Literal[tuple(said["enum"])]
    fields: list[Any] = []
    for name, about in said["properties"].items():
        kind = _type(types, about)
        if name in said["required"]:
            fields.append((name, kind))
        elif isinstance(about["default"], list | dict):
            fields.append((name, kind, _default(kind, about["default"])))
        else:
            fields.append((name, kind, about["default"]))
    return msgspec.defstruct(root, fields, kw_only=True, frozen=True)


def _default(kind: Any, value: Any) -> Any:
    return msgspec.field(default_factory=lambda: msgspec.convert(value, kind))


def _type(types: dict[str, Any], about: dict[str, Any]) -> Any:
    if "$ref" in about:
        return _struct(types, about["$ref"])
    if "anyOf" in about:
        first, *rest = (_type(types, one) for one in about["anyOf"])
        for one in rest:
            first = first | one
        return first
    if about["type"] == "array":
        return tuple[_type(types, about["items"]), ...]  # type: ignore[misc]
    if about["type"] == "object":
        return dict[str, _type(types, about["additionalProperties"])]  # type: ignore[misc]
    kind = _PLAIN[about["type"]]
    bounds = {short: about[long] for short, long in _BOUNDS if long in about}
    return Annotated[kind, msgspec.Meta(**bounds)] if bounds else kind


_BOUNDS: Final = (("ge", "minimum"), ("le", "maximum"))
