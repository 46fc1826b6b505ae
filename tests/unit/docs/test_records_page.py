"""docs/reference/records.md has a row for every kind of key, and names classes that exist."""

from __future__ import annotations

import re
from pathlib import Path

from metastack.core import model
from metastack.core.state.keys import Kind

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "records.md"
ROW = re.compile(r"^\| `([a-z/-]+?)(?:/[A-Z][^`]*)?` \| `(\w+)` \|", re.M)


def test_every_kind_of_key_has_a_row() -> None:
    told = {key for key, _ in ROW.findall(PAGE.read_text())}
    assert {kind.value for kind in Kind} ^ told == set()


def test_every_class_of_the_page_is_a_record() -> None:
    assert [name for _, name in ROW.findall(PAGE.read_text()) if not hasattr(model, name)] == []
