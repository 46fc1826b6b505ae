"""Coverage: every step has a road, an aimed fault strikes, and an empty cell is a fault that cannot."""

from __future__ import annotations

import pytest

from metastack.lab.sim.runs import coverage
from metastack.lab.sim.runs.play import play
from metastack.lab.sim.script.catalogue import FAULTS
from metastack.lab.sim.script.coverage_aims import ROADS, STEPS, cell
from metastack.lab.sim.script.schedule import schedule
from metastack.lab.sim.script.script import parse


@pytest.mark.parametrize("step", STEPS)
def test_every_step_is_reached_by_its_road(step: str) -> None:
    found = coverage.aim("clock-jump", step)
    assert found.struck, found.replay
    assert found.violations == []


def test_a_cell_has_one_script_and_survives_printing() -> None:
    assert str(cell("crash", "fence", 1)) == str(cell("crash", "fence", 1))
    assert str(parse(str(cell("late-commit", "done", 2)))) == str(cell("late-commit", "done", 2))
    assert play(cell("crash", "fence", 1)).trace_hash == play(cell("crash", "fence", 1)).trace_hash


def test_several_processes_find_the_same() -> None:
    cells = [("crash", "boot"), ("freeze", "intent"), ("wish", "takeover")]
    assert list(coverage.sweep(cells)) == list(coverage.sweep(cells, jobs=2))


def test_a_fault_that_cannot_strike_leaves_its_cell_empty() -> None:
    kind, step = next(iter(coverage.NEVER))
    found = coverage.aim(kind, step)
    assert not found.struck
    assert found.violations == []
    assert (kind, step) not in coverage.everything()


def test_what_cannot_be_has_a_reason_and_exists() -> None:
    for (kind, step), why in coverage.NEVER.items():
        assert kind in coverage.KINDS
        assert step in STEPS
        assert len(why) > 20


def test_seeds_fill_cells_and_the_rest_is_named() -> None:
    cells = {"crash boot": 2, "restart kill": 1}
    holes = coverage.empty(cells)
    assert ("crash", "boot") not in holes
    assert ("wish", "kill") not in holes
    assert len(holes) == len(coverage.everything()) - 2
    assert "boot" in coverage.table(cells)


@pytest.mark.parametrize("seed", range(3))
def test_seeds_take_the_roads(seed: int) -> None:
    script = schedule(seed)
    assert any(step.on in ROADS for step in script.steps)
    assert all(step.verb in FAULTS for step in script.steps)
