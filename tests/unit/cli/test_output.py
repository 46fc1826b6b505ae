"""Tables, YAML, ages, and text that must not reach a terminal raw."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from metastack.cli import node
from metastack.cli.frame import Frame, Output
from metastack.cli.output import Column, Table, age, clean, text_of, to_yaml
from metastack.commands.node.views import NodeInfo

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(-1e6, 1e6) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


@given(VALUES)
def test_yaml_means_what_it_was(value: object) -> None:
    assert yaml.safe_load(to_yaml(value)) == value


@pytest.mark.parametrize(
    "word", ["yes", "No", "null", "on", "1", "1e3", "0x1", "12:30:45", "2026-01-01", "~", "- a"]
)
def test_words_that_mean_something_else_are_quoted(word: str) -> None:
    assert yaml.safe_load(to_yaml({"k": word})) == {"k": word}


@given(st.text())
def test_clean_text_has_no_control_characters(text: str) -> None:
    shown = clean(text)
    assert all(char.isprintable() or char not in "\x00\x07\x08\x1b\r\n\t\x7f\x9b\u202e" for char in shown)


def test_table() -> None:
    out = io.StringIO()
    columns: list[Column[dict[str, object]]] = [
        Column("NAME", lambda row: row["name"]),
        Column("WIDE", lambda row: "w", wide=True),
        Column("LAST", lambda row: row["last"]),
    ]
    table = Table(columns, False, out)
    table.print([{"name": "long-name", "last": None}, {"name": "b", "last": ["x", "y"]}])
    table.print([{"name": "c", "last": "\x1b[31m"}])
    assert out.getvalue() == "NAME       LAST\nlong-name  -\nb          x,y\nc          \\x1b[31m\n"


@pytest.mark.parametrize(
    ("last", "shown"), [(["", ["x"]], "NAME  LAST\na     -\nb     x\n"), (["", []], "NAME\na\nb\n")]
)
def test_a_column_that_is_shown_where_any_row_has_something(last: list[object], shown: str) -> None:
    columns: list[Column[tuple[str, object]]] = [
        Column("NAME", lambda row: row[0]),
        Column("LAST", lambda row: row[1], if_any=True),
    ]
    rows = list(zip("ab", last, strict=True))
    out, wide = io.StringIO(), io.StringIO()
    Table(columns, False, out).print(rows)
    Table(columns, True, wide).print(rows)
    assert out.getvalue() == shown
    assert wide.getvalue().startswith("NAME  LAST\n")


def test_cells() -> None:
    assert [text_of(value) for value in (None, True, 1.0, 0, "", {}, {"a": "b"}, [])] == [
        *("-", "yes", "1", "0", "-", "-", "a=b", "-")
    ]


@pytest.mark.parametrize(
    ("seconds", "shown"), [(0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (86400, "1d"), (-60, "0s")]
)
def test_age(seconds: int, shown: str) -> None:
    since = (
        datetime.now(UTC) - timedelta(seconds=seconds, milliseconds=100 if seconds >= 0 else 0)
    ).isoformat()
    assert age(since) == shown
    assert age(None) == age("rubbish") == "-"


def test_a_wide_list_of_nodes_says_how_late_each_hears(capsys: pytest.CaptureFixture[str]) -> None:
    lost = NodeInfo(name="n2", state="lost")
    node._printer(Frame(Output.WIDE)).list([NodeInfo(name="n1", state="ready", lag_ms=64), lost])
    head, here, gone = capsys.readouterr().out.splitlines()
    at = head.index("LAG ")
    assert (here[at : at + 5].strip(), gone[at : at + 5].strip()) == ("64ms", "-")
