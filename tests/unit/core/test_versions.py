"""Record levels: what a writer of an older level puts, and that a reader of it reads everything.

The older reader is the frozen codec of that release (sim/older): its types, not today's.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from metastack.core.model import RECORDS, ClusterConfig, NodeAlive, NodeSpec, Record, VmId
from metastack.core.state import codec
from metastack.core.state import record_versions as versions
from metastack.core.state.keys import Keys, Kind
from metastack.core.state.record_versions import LEVEL, RELEASES, lost, older, settings_bytes, written
from metastack.core.transaction import Delete, Put, Transaction
from metastack.lab import sim
from metastack.lab.sim.engine.older_release import older as codec_of

KEYS = Keys("/metastack")
GOLDEN = Path(__file__).parents[2] / "golden"
CASES = [(level, name) for level in RELEASES for name in RELEASES[level].versions]


def filled(name: str) -> bytes:
    """A record of today with every field filled."""
    return (GOLDEN / f"v{codec.current(RECORDS[name])}" / f"{name}.json").read_bytes()


def today(name: str) -> bytes:
    raw = filled(name)
    # The settings say themselves which level holds.
    return json.dumps({**json.loads(raw), "record_version": 1}).encode() if name == "cluster" else raw


FROZEN = {1: "f6b2a872b291fc17d13bcb0dc82b0b06f5c516abe4bf7f509d8b8c43e0934d2b"}


@pytest.mark.parametrize("level", RELEASES)
def test_what_a_release_understood_never_changes(level: int) -> None:
    raw = (Path(sim.__file__).parent / "releases" / f"{level}.json").read_bytes()
    assert hashlib.sha256(raw).hexdigest() == FROZEN[level], "a frozen release was edited"


@pytest.mark.parametrize(("level", "name"), CASES)
def test_the_table_says_what_that_release_understood(level: int, name: str) -> None:
    assert RELEASES[level].versions[name] == codec_of(level).newest(name)


@pytest.mark.parametrize("level", RELEASES)
def test_every_kind_of_that_release_is_in_the_table(level: int) -> None:
    assert set(RELEASES[level].versions) == set(codec_of(level).schema)


def tree(types: dict[str, Any], about: dict[str, Any]) -> Any:
    if "$ref" in about and "properties" in types[about["$ref"]]:
        fields = types[about["$ref"]]["properties"]
        return {name: tree(types, inner) for name, inner in fields.items() if name != "v"}
    return tree(types, about["items"]) if about.get("type") == "array" else None


@pytest.mark.parametrize("level", RELEASES)
def test_every_field_that_people_write_is_in_the_table(level: int) -> None:
    for name, known in RELEASES[level].demands.items():
        said = codec_of(level).schema[name]
        assert known == tree(said["types"], {"$ref": said["root"]}), name


@pytest.mark.parametrize(("level", "name"), CASES)
def test_an_older_reader_loses_no_field_of_its_level(level: int, name: str) -> None:
    new = today(name)
    value = older(name, new, level)
    codec_of(level).decode(name, value)
    before, after = json.loads(new), json.loads(value)
    fields = codec_of(level).schema[name]
    for field in fields["types"][fields["root"]]["properties"]:
        if field != "v" and name not in RELEASES[level].earlier:
            assert after[field] == before[field], field
    assert after["v"] <= codec_of(level).newest(name)
    codec.decode(RECORDS[name], value)  # and today's program reads it


@pytest.mark.parametrize(("level", "name"), CASES)
def test_records_rewritten_by_an_older_program_are_readable(level: int, name: str) -> None:
    value = codec_of(level).again(name, older(name, today(name), level))
    codec.decode(RECORDS[name], value)


def values_of(kind: Any) -> list[Any]:
    """Every value of an enumeration inside a record's field, by the field's name."""
    found = []
    for field in msgspec.structs.fields(kind):
        info = msgspec.inspect.type_info(field.type)
        if isinstance(info, msgspec.inspect.EnumType):
            found += [(field.name, member.value) for member in info.cls]
    return found


@pytest.mark.parametrize(("level", "name"), CASES)
def test_a_newer_value_is_written_as_an_older_one(level: int, name: str) -> None:
    for field, value in values_of(RECORDS[name]):
        new = json.dumps({**json.loads(today(name)), field: value}).encode()
        codec_of(level).decode(name, older(name, new, level), f"{name} with {field}={value}")


def put(key: str, record: Record) -> Transaction:
    return Transaction(name="test", guards=(), effects=(Put(key, codec.encode(record)),))


def test_nothing_is_rewritten_at_the_newest_level() -> None:
    change = put(KEYS.node_alive("n1"), NodeAlive(name="n1"))
    assert written(change, KEYS, LEVEL) is change


def test_records_are_written_in_the_levels_version() -> None:
    change = Transaction(
        name="test",
        guards=(),
        effects=(
            Put(KEYS.node_alive("n1"), codec.encode(NodeAlive(name="n1", record_version=LEVEL)), leased=True),
            Delete(KEYS.refusal("n1")),
            Put("/metastack/from/the/future", b"no JSON"),
            Put(KEYS.claim(VmId("p", "v")), b'{"v": 2}'),
        ),
        lease=7,
    )
    found = written(change, KEYS, 1)
    alive = found.effects[0]
    assert isinstance(alive, Put) and alive.leased and found.lease == 7
    assert json.loads(alive.value)["v"] == 2
    assert codec_of(1).reads(KEYS, alive) == ""
    assert found.effects[1:] == change.effects[1:]


def test_what_a_node_understands_is_told_at_every_level() -> None:
    value = older("node_alive", codec.encode(NodeAlive(name="n1", record_version=LEVEL)), 1)
    assert codec.decode(NodeAlive, value).record_version == LEVEL


def test_settings_are_written_in_the_version_of_their_own_level() -> None:
    old, new = ClusterConfig(), ClusterConfig(record_version=LEVEL)
    assert json.loads(settings_bytes(old))["v"] == 2
    assert "record_version" not in json.loads(settings_bytes(old))
    assert codec.decode(ClusterConfig, settings_bytes(old)) == old
    assert codec.decode(ClusterConfig, settings_bytes(new)) == new
    # The write that raises the level is made by one that knows the level before.
    raised = written(put(KEYS.cluster(), new), KEYS, 1).effects[0]
    assert isinstance(raised, Put) and codec.decode(ClusterConfig, raised.value) == new


def test_a_future_level_counts_as_the_newest() -> None:
    assert versions.settings_level(ClusterConfig(record_version=LEVEL + 5)) == LEVEL


def test_demands_unknown_to_older_records_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = dict.fromkeys(("cordoned", "draining", "labels"))
    release = msgspec.structs.replace(
        RELEASES[1], versions={**RELEASES[1].versions, "node_spec": 1}, demands={"node_spec": known}
    )
    monkeypatch.setattr(versions, "RELEASES", {1: release})
    plain, more = NodeSpec(cordoned=True), NodeSpec(cordoned=True, reason="disk")
    assert lost(put(KEYS.node_spec("n1"), plain), KEYS, 1) == []
    assert lost(put(KEYS.node_spec("n1"), more), KEYS, 1) == ["reason"]
    assert lost(put(KEYS.node_spec("n1"), more), KEYS, LEVEL) == []


def test_every_kind_of_key_names_a_kind_of_record() -> None:
    assert set(versions.KINDS.values()) <= set(RECORDS)
    # A kind that came later is free until its version rises; those of the oldest level are all here.
    assert set(RELEASES[1].versions) == set(versions.KINDS.values())
    assert all(isinstance(kind, Kind) for kind in versions.KINDS)
