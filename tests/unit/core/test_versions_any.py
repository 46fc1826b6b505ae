"""Any record of today, written for an older level: that level's own types read it, and lose nothing."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import inspect

from metastack.core.model import RECORDS
from metastack.core.state import codec
from metastack.core.state.record_versions import RELEASES, older
from metastack.lab.sim.engine.older_release import older as codec_of

CASES = [(level, name) for level in RELEASES for name in RELEASES[level].versions]


def values(kind: inspect.Type) -> st.SearchStrategy[Any]:
    """Whatever a field of that type may hold, as JSON has it."""
    match kind:
        case inspect.UnionType(types=types):
            return st.one_of([values(one) for one in types])
        case inspect.EnumType(cls=cls):
            return st.sampled_from([member.value for member in cls])
        case inspect.StructType():
            return st.fixed_dictionaries({field.encode_name: values(field.type) for field in kind.fields})
        case inspect.VarTupleType(item_type=item):
            return st.lists(values(item), max_size=2)
        case inspect.DictType(value_type=item):
            return st.dictionaries(st.text(max_size=3), values(item), max_size=2)
        case inspect.BoolType():
            return st.booleans()
        case inspect.NoneType():
            return st.none()
        case inspect.IntType():
            return st.integers(-(2**53) if kind.ge is None else kind.ge, 2**53 if kind.le is None else kind.le)
        case inspect.FloatType():
            return st.floats(kind.ge, kind.le, allow_nan=False, allow_infinity=False)
        case inspect.StrType():
            return st.text(max_size=5)
    raise TypeError(kind)


def known(record: Any) -> dict[str, Any]:
    return {name: value for name, value in msgspec.to_builtins(record).items() if name != "v"}


@pytest.mark.parametrize(("level", "name"), CASES)
def test_any_record_is_read_by_older_programs(level: int, name: str) -> None:
    kind, before = RECORDS[name], codec_of(level)
    mapped = name in RELEASES[level].earlier

    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck))
    @given(values(inspect.type_info(kind)))
    def examine(raw: dict[str, Any]) -> None:
        raw["v"] = codec.current(kind)
        if name == "cluster":
            raw["record_version"] = level
        new = msgspec.json.encode(raw)
        value = older(name, new, level)
        read = known(before.decode(name, value))
        if not mapped:
            assert read == known(before.decode(name, json.dumps({**raw, "v": 1}).encode()))
        today = codec.decode(kind, value)  # today's program reads it too ...
        if name not in RELEASES[level].demands and not mapped:
            assert today == codec.decode(kind, new)  # ... and what agents say says all of it
        codec.decode(kind, before.again(name, value))  # and what an older program makes of it

    examine()
