"""Schedules and scripts: what a seed promises, and that a script survives printing."""

from __future__ import annotations

import pytest

from metastack.lab.sim.runs.play import play
from metastack.lab.sim.script.catalogue import FAULTS
from metastack.lab.sim.script.rare_faults import RESTORES
from metastack.lab.sim.script.request_verbs import REQUEST_VERBS
from metastack.lab.sim.script.schedule import STEPS, schedule
from metastack.lab.sim.script.script import ScriptError, parse


@pytest.mark.parametrize("seed", range(200))
def test_a_schedule_keeps_its_promises(seed: int) -> None:
    script = schedule(seed)
    faults = [step for step in script.steps if step.verb not in REQUEST_VERBS]
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


def test_some_seeds_restore_etcd() -> None:
    for seed in (RESTORES[0], RESTORES[77], RESTORES[-1]):
        steps = schedule(seed).steps
        at = [step.at_s for step in steps if step.verb == "etcd-restored"]
        said = [step.at_s for step in steps if step.verb == "cluster-restore"]
        assert len(at) == 1 and 1 <= len(said) <= 2
        assert float(next(s.args[0] for s in steps if s.verb == "etcd-restored")) < at[0] <= min(said)
        assert not [step for step in steps if step.verb == "fence-by-hand"]
    for seed in (RESTORES[0] - 1, RESTORES[-1] + 1):
        assert not [step for step in schedule(seed).steps if "restore" in step.verb]


@pytest.mark.parametrize("seed", [RESTORES[0] + n for n in range(6)])
def test_a_restore_in_the_middle_of_everything(seed: int) -> None:
    assert play(schedule(seed)).violations == []


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
