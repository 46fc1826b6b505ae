"""Nodes that share a storage address, fenced by single clients: random faults, and the known limit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from metastack.lab.sim.runs.play import play
from metastack.lab.sim.script.schedule import schedule
from metastack.lab.sim.script.script import Script, parse

LATE_START = Path(__file__).parents[2] / "scenarios" / "late-start-at-a-shared-address" / "script"


def shared(script: Script, how: str) -> Script:
    return dataclasses.replace(script, address=how, config=(*script.config, ("fencing", '"client"')))


@pytest.mark.parametrize("seed", range(12))
def test_random_faults(seed: int) -> None:
    report = play(shared(schedule(seed), "shared guests"))
    assert report.violations == []


def test_known_limit_a_late_start_without_own_users() -> None:
    """docs/internals/safety.md says so; were this to pass without a violation, that page would be wrong."""
    text = LATE_START.read_text()
    assert play(parse(text)).violations == []
    weak = play(parse(text.replace("address shared guests", "address shared")))
    assert any("two_writers" in line for line in weak.violations), weak.violations
