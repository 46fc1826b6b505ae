"""A seed that fails since the agent lacks a safety step: one command replays it, and a short script is left."""

from __future__ import annotations

import subprocess
import sys

from metastack.lab.sim.script.script import parse

STEP = "plan-kill-before-release"
SEEDS = 12
"""Which of them fails is not the same for ever: schedules change as agents do. That one does is."""
MUTATED = f"""
import sys
from metastack.lab.sim.mutation import mutant
from metastack.lab.sim.mutation.all import MUTATIONS
mutation = next(mutation for mutation in MUTATIONS if mutation.name == {STEP!r})
sys.meta_path.insert(0, mutant._Finder(mutation))
from metastack.cli.main import main
main()
"""


def _metastack(*words: str, mutated: bool) -> subprocess.CompletedProcess[str]:
    how = ["-c", MUTATED] if mutated else ["-m", "metastack.cli.main"]
    return subprocess.run(
        [sys.executable, *how, *words], capture_output=True, text=True, timeout=240, check=False
    )


def test_a_failing_seed_prints_how_to_replay_it_and_shrinks() -> None:
    failed = _metastack("sim", "run", "--seed", "1", "--seeds", str(SEEDS), mutated=True)
    assert failed.returncode == 1, failed.stdout + failed.stderr
    lines = failed.stdout.splitlines()
    said = next(line for line in lines if line.startswith("seed ") and " FAILED: " in line)
    seed, command = said.split()[1], said.partition(" FAILED: ")[2]
    assert command == f"metastack sim replay {seed}"
    replayed = _metastack(*command.split()[1:], mutated=True)
    assert replayed.returncode == 1
    assert " !! " in replayed.stdout

    at = next(number for number, line in enumerate(lines) if line.startswith("shrunk to "))
    script = parse("\n".join(lines[at + 1 :]))
    assert 1 <= len(script.steps) <= 8, failed.stdout

    assert _metastack("sim", "replay", seed, mutated=False).returncode == 0, "with the step all is well"
