"""Shrinking: from a schedule that fails to the shortest script that still does.

Owns: which steps may go. Refuses: to change what the failure is about: a smaller script counts only if it fails
in the same kind of violation. Rule: always terminates within its number of runs, with a script that fails.
"""

from __future__ import annotations

from dataclasses import replace

from ..script.script import Script, Step
from .play import play

MOST_RUNS = 400


def kinds(violations: list[str]) -> set[str]:
    """``SECOND KIND: text`` to the kinds."""
    return {line.split(" ", 1)[1].split(":", 1)[0] for line in violations}


def shrink(script: Script, most_runs: int = MOST_RUNS) -> tuple[Script, list[str]]:
    """The shortest script found, and its violations."""
    best, found = script, play(script).violations
    wanted = kinds(found)
    runs = 0

    def fails(candidate: Script) -> bool:
        nonlocal best, found, runs
        runs += 1
        try:
            violations = play(candidate).violations
        except ValueError:
            return False  # a fault without its node
        if not kinds(violations) & wanted:
            return False
        best, found = candidate, violations
        return True

    size = max(1, len(best.steps) // 2)
    while size and runs < most_runs:
        at, smaller = 0, False
        while at < len(best.steps) and runs < most_runs:
            steps = list(best.steps)
            del steps[at : at + size]
            if fails(best.with_steps(steps)):
                smaller = True
            else:
                at += size
        if not smaller or size > 1:
            size //= 2
    for number in range(len(best.steps)):
        step = best.steps[number]
        for simpler in _simpler(step):
            steps = list(best.steps)
            steps[number] = simpler
            if runs < most_runs and fails(best.with_steps(steps)):
                break
    last_s = max((step.at_s for step in best.steps), default=0.0)
    fails(replace(best, until_s=min(best.until_s, round(last_s + 40.0))))
    return best, found


def _simpler(step: Step) -> list[Step]:
    found = []
    if step.at_s != round(step.at_s):
        found.append(replace(step, at_s=float(round(step.at_s))))
    if step.for_s is not None and step.for_s != round(step.for_s):
        found.append(replace(step, for_s=float(max(1, round(step.for_s)))))
    return found
