"""Schedules and scripts: what a seed promises, and that a script survives printing."""

from __future__ import annotations

import pytest

from metastack.sim.catalogue import FAULTS, WISHES
from metastack.sim.schedule import STEPS, schedule
from metastack.sim.script import ScriptError, parse


@pytest.mark.parametrize("seed", range(200))
def test_a_schedule_keeps_its_promises(seed: int) -> None:
    script = schedule(seed)
    faults = [step for step in script.steps if step.verb not in WISHES]
    assert script.nodes >= 3
    assert script.until_s >= 120
    assert len([step for step in script.steps if step.verb == "want"]) >= 6
    assert len(faults) >= 8
    assert len({step.verb for step in faults}) >= 3
    spans = [(s.at_s, s.at_s + s.for_s) for s in faults if s.for_s is not None and not s.on]
    assert any(a[0] < b[0] < a[1] for a in spans for b in spans if a is not b), "two overlap"
    assert all(step.verb in FAULTS for step in script.steps)
    assert all(step.on in ("", *STEPS) for step in script.steps)
    assert all(FAULTS[step.verb].lasts == (step.for_s is not None) for step in script.steps)


@pytest.mark.parametrize("seed", range(20))
def test_a_script_survives_printing(seed: int) -> None:
    script = schedule(seed)
    assert str(parse(str(script))) == str(script)


def test_seeds_and_sizes_matter() -> None:
    assert str(schedule(1)) == str(schedule(1))
    assert str(schedule(1)) != str(schedule(2))
    assert schedule(1, nodes=5, vms=50).nodes == 5


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("at", "line 1"),
        ("nodes 3\nat x crash n1", "line 2"),
        ("break everything", "expected seed"),
        ("seed x", "line 1"),
    ],
)
def test_a_broken_line_is_named(text: str, says: str) -> None:
    with pytest.raises(ScriptError, match=says):
        parse(text)
