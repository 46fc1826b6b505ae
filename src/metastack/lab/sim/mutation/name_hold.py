"""Mutations: a node that holds its name and is of no use to anybody.

Owns: the entries of :mod:`metastack.agent.session.name_hold` and of its mark.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, agent

_NOWHERE: Final = "nobody writes: the VM is nowhere for as long as its node holds the name"
_TEST: Final = "test:unit/agent/test_place.py"

NAME_HOLD: Final = (
    Mutation(
        "place-in-vain",
        "a place that is held in vain is given up",
        agent("session.name_hold", "NameHold._unused_too_long", "return held and", "return False and"),
        ("agents-die-before-they-are-ready", "guest-ends-while-its-node-is-not-ready"),
        evidence="expected",
        because=_NOWHERE,
    ),
    Mutation(
        "place-deaths",
        "agents that die one after the other count as one",
        agent("session.hold_file", "HoldFile.begin", "if found.from_s:", "if False:"),
        ("agents-die-before-they-are-ready",),
        evidence="expected",
        because=_NOWHERE,
    ),
    Mutation(
        "place-watched",
        "it is counted beside the steps between the registration and readiness",
        agent(
            "session.name_hold", "NameHold.run", "if bound is None or not await self.is_useless():", "if True:"
        ),
        ("guest-ends-while-its-node-is-not-ready",),
        evidence="expected",
        because=_NOWHERE,
    ),
    Mutation(
        "place-guest-runs",
        "a place is not given up while a claimed guest runs here",
        agent(
            "session.name_hold",
            "NameHold._guests_run",
            "return await claimed_guests_run(",
            "return False and await claimed_guests_run(",
        ),
        ("agents-die-and-its-guest-runs",),
        evidence="expected",
        because="a guest that is ended for nothing costs its users time, and no disk a writer",
    ),
    Mutation(
        "place-away-outlives",
        "an agent that is started while its node stays away, stays away too",
        agent("session.name_hold", "NameHold.begin", "self._hold_file.held.away_until_s - now_s", "0.0"),
        (_TEST,),
        evidence="test",
        because=_NOWHERE,
    ),
)
