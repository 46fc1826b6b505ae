"""One safety step and how to take it away: text of the source, replaced at load time.

Owns: the shape of an entry. Refuses: switches: the shipped code has none; a patch exists only in the memory of
a process of its own. Rule: a patch names a function and a text that stands in it exactly once, so that a step
which moves or vanishes makes its entry stale, loudly.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Patch:
    """One replacement: ``old`` stands exactly once in that function (``Class.method``) of that module."""

    module: str
    function: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """One safety step taken away."""

    name: str
    step: str
    """What the step is, for people."""
    patches: tuple[Patch, ...]
    seen_by: tuple[str, ...] = ()
    """Scenarios that are about it: tried first."""
    harmless: bool = False
    """A control: without it everything must stay safe."""
    one_edit: bool = False
    """Its patches are one change of the source, not steps that cover each other."""
    evidence: str = "two_writers"
    """The least that must be seen: a judge's violation, unless ``because`` says why there can be none.
    ``stuck``: a VM or an agent is lost; ``expected``: what a scenario's author demands; ``test``: a table."""
    gate: bool = False
    """It is about the last gate. All others are judged without it, which would cover for them."""
    because: str = ""
    """Why a judge cannot see it."""


CLAIMS: Final = "core.protocol.claims"
FENCES: Final = "core.protocol.fences"


def guard(change: str, *guards: str) -> tuple[Patch, ...]:
    """Compares of a transaction."""
    return tuple(Patch(CLAIMS, change, guard, "*()") for guard in guards)


def fence_guard(change: str, *guards: str) -> tuple[Patch, ...]:
    """Compares of a transaction of a fence."""
    return tuple(Patch(FENCES, change, guard, "*()") for guard in guards)


def plan(old: str, new: str, function: str = "plan") -> tuple[Patch, ...]:
    """A rule of the rulebook."""
    return (Patch("core.plan", function, old, new),)


def agent(module: str, function: str, old: str, new: str = "pass") -> tuple[Patch, ...]:
    """A step of the agent."""
    return (Patch(f"agent.{module}", function, old, new),)


SESSION: Final = "in_session(keys, me)"
