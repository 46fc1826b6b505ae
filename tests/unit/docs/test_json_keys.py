"""The keys that docs/guide/cli.md promises are those that the verbs about places print."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec import Struct
from msgspec.structs import fields

from metastack.commands.capacity import balance as balancing
from metastack.commands.capacity import whatif as outlook
from metastack.commands.vm import break_lock as locks
from metastack.commands.vm import explain as explanation

PAGE = Path(__file__).parents[3] / "docs" / "guide" / "cli.md"

VIEWS: list[type[Struct]] = [
    explanation.VmExplanation, explanation.NodeVerdict, explanation.Gate, explanation.Rule,
    explanation.HintView,
    outlook.WhatIf, outlook.MoveView, outlook.NodeLoad,
    balancing.BalanceView, balancing.QualityView, balancing.MoveView,
    locks.LockView,
    balancing.SchedulerView, balancing.HintView,
]  # fmt: skip
"""In the order of the page."""


def promised() -> list[list[str]]:
    lines = PAGE.read_text().splitlines()
    start = lines.index("  | of | keys |") + 2
    found = []
    for line in lines[start:]:
        if not line.startswith("  |"):
            return found
        found.append(re.findall("`([^`]+)`", line.split("|")[2]))
    return found


def test_every_view_has_its_row() -> None:
    assert len(promised()) == len(VIEWS)


@pytest.mark.parametrize("number", range(len(VIEWS)), ids=[view.__name__ for view in VIEWS])
def test_the_keys_are_those_of_the_page(number: int) -> None:
    view = VIEWS[number]
    assert promised()[number] == [field.encode_name for field in fields(view)]
    assert not view.__struct_config__.omit_defaults, "a key is never absent"
