"""Clusters that are upgraded while everything breaks: no VM is lost, and no agent finds what it cannot read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from metastack.lab.sim.runs.play import play
from metastack.lab.sim.runs.seeds import script_of
from metastack.lab.sim.script.script import parse

OLD = """
until 30
config record_version=1
at 0 older n1 for 25
at 5 want vm1 node=n1
"""


@pytest.mark.parametrize("seed", range(1, 13))
def test_a_cluster_that_is_being_upgraded(seed: int) -> None:
    report = play(script_of(seed, upgrade=True))
    assert report.violations == []
    assert report.faults["older"] >= 3


def test_some_of_these_seeds_finish_the_upgrade() -> None:
    done = [play(script_of(seed, upgrade=True)).faults.get("upgrade-finish", 0) for seed in range(1, 7)]
    assert 0 < sum(done) < len(done)


@pytest.mark.parametrize("name", ["disk-opened-by-a-tool", "lock-by-hand-is-broken", "group-node-dies"])
def test_a_value_unknown_to_older_records_is_published_once(name: str) -> None:
    """Seen: a phase that is read back as an older one was published a hundred times a second."""
    script = parse((Path(__file__).parents[1] / "scenarios" / name / "script").read_text())
    new = play(script, keep=True)
    old = play(replace(script, config=(*script.config, ("record_version", "1"))), keep=True)
    assert [line for line in old.violations if "phase vm1 waiting: is starting" not in line] == []
    assert old.commits <= new.commits + 10


def test_a_record_that_an_old_agent_cannot_read_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from metastack.ports import levelled

    assert play(parse(OLD)).violations == []
    monkeypatch.setattr(levelled, "written", lambda change, keys, level: change)
    found = " ".join(play(parse(OLD)).violations)
    assert "too_new: " in found  # by the judge of what is written ...
    assert "refused: n1: " in found  # ... and by the old agent itself


def test_a_level_that_rises_too_early_is_seen() -> None:
    found = play(parse(OLD + "at 10 set record_version=2\n")).violations
    assert any("refused: n1: " in line for line in found)
