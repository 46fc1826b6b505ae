"""The names of tests: the behaviour in at most ten plain words."""

from __future__ import annotations

import re
from pathlib import Path

TESTS = Path(__file__).parents[1]
MOST_WORDS = 10
BANNED = re.compile(r"_(?:anew|rooms?|wish\w*|answers?_for|so_many)(?:_|$)|^who(?:m|ever)?_|_who(?:m|ever)?_")


def names() -> list[str]:
    found = []
    for path in TESTS.rglob("test_*.py"):
        found += re.findall(r"(?m)^ *(?:async )?def test_(\w+)\(", path.read_text())
    return found


def test_names_of_tests_are_short() -> None:
    assert not [name for name in names() if len(name.split("_")) > MOST_WORDS]


def test_names_of_tests_are_plain() -> None:
    assert not [name for name in names() if BANNED.search(name)]
