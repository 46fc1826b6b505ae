"""Every test that the security page names exists: no row of it rests on a test that was renamed or deleted."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

TOP = Path(__file__).parents[3]
PAGE = (TOP / "docs" / "security.md").read_text()
NAMED = sorted(set(re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)))


def test_the_page_names_tests() -> None:
    part = PAGE.split("## Holes", 1)[1].split("## ", 1)[0]
    rows = [line for line in part.splitlines() if line.startswith("| ")]
    assert len(rows) > 10
    assert [row for row in rows[1:] if not re.search(r"`tests/[\w/]+\.py::\w+` \|$", row)] == []


@pytest.mark.parametrize(("path", "name"), NAMED)
def test_a_named_test_exists(path: str, name: str) -> None:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    tree = ast.parse((TOP / path).read_text())
    assert name in {node.name for node in ast.walk(tree) if isinstance(node, functions)}
