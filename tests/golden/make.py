"""Print a first golden file for a new record: every field filled with a value that is not its default.

Usage: .venv/bin/python tests/golden/make.py RECORD > tests/golden/vN/RECORD.json
"""

from __future__ import annotations

import enum
import json
import sys
from typing import Any

import msgspec

from metastack.core.model import RECORDS
from metastack.core.state.codec import current


def value(kind: msgspec.inspect.Type, default: Any, name: str) -> Any:
    """Some value of that type which is not the default."""
    match kind:
        case msgspec.inspect.UnionType(types=types):
            return value(next(t for t in types if not isinstance(t, msgspec.inspect.NoneType)), default, name)
        case msgspec.inspect.EnumType(cls=cls):
            return next(member for member in cls if member != default)
        case msgspec.inspect.StructType():
            return {f.encode_name: value(f.type, f.default, f.encode_name) for f in kind.fields}
        case msgspec.inspect.VarTupleType(item_type=item):
            return [value(item, msgspec.NODEFAULT, name)]
        case msgspec.inspect.DictType(value_type=item):
            return {name: value(item, msgspec.NODEFAULT, name)}
        case msgspec.inspect.BoolType():
            return default is not True
        case msgspec.inspect.IntType():
            return default + 1 if isinstance(default, int) else 7
        case msgspec.inspect.FloatType():
            return default + 0.25 if isinstance(default, int | float) else 1.25
        case msgspec.inspect.BytesType():
            return "Ynl0ZXM="
        case msgspec.inspect.StrType():
            return f"{name}-text"
    raise TypeError(f"{name}: {kind}")


def main() -> None:
    info = msgspec.inspect.type_info(RECORDS[sys.argv[1]])
    filled = value(info, msgspec.NODEFAULT, sys.argv[1])
    filled["v"] = current(RECORDS[sys.argv[1]])
    print(json.dumps(filled, indent=2, default=lambda e: e.value if isinstance(e, enum.Enum) else str(e)))


if __name__ == "__main__":
    main()
