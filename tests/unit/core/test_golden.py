"""Golden files: what version 1 of every record looks like in etcd, for ever.

A file is never edited once released: a changed record gets a new ``v`` and a new folder beside v1.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from metastack.core.model import RECORDS, Record
from metastack.core.state import codec

GOLDEN = Path(__file__).parents[2] / "golden"
FILES = sorted(GOLDEN.glob("v*/*.json"))


def kind_of(path: Path) -> type[Record]:
    return RECORDS[path.stem]


def ident(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("name", sorted(RECORDS))
def test_every_record_has_a_golden_file_of_its_current_version(name: str) -> None:
    assert (GOLDEN / f"v{codec.current(RECORDS[name])}" / f"{name}.json").exists()


@pytest.mark.parametrize("path", FILES, ids=ident)
def test_golden_file_reads_and_writes_back_the_same(path: Path) -> None:
    stored = json.loads(path.read_bytes())
    record = codec.decode(kind_of(path), path.read_bytes(), "/metastack/golden")
    written = json.loads(codec.encode(record))
    # What was read as an older version is written as the newest: its new fields must not be lost on a reader
    # that does not know them.
    assert written.pop("v") == codec.current(kind_of(path))
    assert _within(stored, written, "v") == []


def _within(old: Any, new: Any, *but: str) -> list[str]:
    """What an older record said and a newer one does not say any more; new fields may have come in."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [f"{k}.{what}" for k in old if k not in but for what in _within(old[k], new.get(k))]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [what for a, b in zip(old, new, strict=True) for what in _within(a, b)]
    return [] if old == new else [f"{old!r} became {new!r}"]


def defaults_left(record: Any) -> list[str]:
    """Fields (also of structs inside) that still have their default, or an empty value."""
    left = []
    for field in msgspec.structs.fields(record):
        value = getattr(record, field.name)
        if field.name == "v":
            continue
        made = field.default_factory
        default = field.default if made is msgspec.NODEFAULT else made()
        if value == default or value in ("", (), {}, None):
            left.append(field.name)
        for inner in value if isinstance(value, tuple) else (value,):
            if isinstance(inner, msgspec.Struct):
                left += [f"{field.name}.{name}" for name in defaults_left(inner)]
    return left


@pytest.mark.parametrize("path", FILES, ids=ident)
def test_golden_file_of_the_current_version_fills_every_field(path: Path) -> None:
    kind = kind_of(path)
    if path.parent.name != f"v{codec.current(kind)}":
        return
    stored = json.loads(path.read_bytes())
    record = codec.decode(kind, path.read_bytes())
    assert set(stored) == {field.encode_name for field in msgspec.structs.fields(kind)}
    assert defaults_left(record) == []
    assert json.loads(codec.encode(record)) == stored


def test_defaults_left_sees_a_default_deep_inside() -> None:
    spec = codec.decode(RECORDS["vm_spec"], (GOLDEN / "v2" / "vm_spec.json").read_bytes())
    emptied = msgspec.structs.replace(spec, ha=type(spec.ha)(), reason="")  # type: ignore[attr-defined]
    assert defaults_left(emptied) == [
        "ha", "ha.priority", "ha.start_after", "ha.ready_port", "reason"
    ]  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=ident)
def test_unknown_fields_are_ignored(path: Path) -> None:
    stored = json.loads(path.read_bytes())
    kind = kind_of(path)
    more = json.dumps({**stored, "from_the_future": {"deep": [1]}}).encode()
    assert codec.decode(kind, more) == codec.decode(kind, path.read_bytes())


@pytest.mark.parametrize("path", FILES, ids=ident)
def test_a_newer_version_is_refused_and_the_key_named(path: Path) -> None:
    stored = json.loads(path.read_bytes())
    newer = json.dumps({**stored, "v": codec.current(kind_of(path)) + 1}).encode()
    with pytest.raises(codec.Unreadable, match="newer") as raised:
        codec.decode(kind_of(path), newer, "/metastack/some/key")
    assert raised.value.key == "/metastack/some/key"
    assert "/metastack/some/key" in str(raised.value)


@pytest.mark.parametrize("name", sorted(RECORDS))
@pytest.mark.parametrize(
    "raw", [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b'{"v": "one"}', b'{"v": null}', b"{}x"]
)
def test_what_does_not_parse_is_refused_and_the_key_named(name: str, raw: bytes) -> None:
    with pytest.raises(codec.Unreadable) as raised:
        codec.decode(RECORDS[name], raw, "/metastack/broken")
    assert raised.value.key == "/metastack/broken"


@pytest.mark.parametrize("path", FILES, ids=ident)
def test_a_truncated_record_is_refused(path: Path) -> None:
    raw = path.read_bytes().rstrip()
    for end in range(len(raw)):
        with pytest.raises(codec.Unreadable):
            codec.decode(kind_of(path), raw[:end], "key")


@pytest.mark.parametrize("path", FILES, ids=ident)
def test_a_field_of_the_wrong_type_is_refused(path: Path) -> None:
    stored = json.loads(path.read_bytes())
    for field in stored:
        with pytest.raises(codec.Unreadable):
            codec.decode(kind_of(path), json.dumps({**stored, field: [[["no"]]]}).encode(), "key")


@pytest.mark.parametrize("script", [["make.py", "vm_spec"], ["freeze.py"]])
def test_the_scripts_that_make_golden_files_run(script: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, str(GOLDEN / script[0]), *script[1:]],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)
