"""What is played in which round: a function of seed and round number, nothing else.

Owns: the choice of faults. Refuses: clocks and the cluster's state.
Rule: a round does not depend on the rounds before it, so any single one can be played again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from msgspec import Struct

from .faults import ROLE_WEIGHTS, ROLES, SHAPES, Fault, Kind

PAIRS_PERCENT = 45
"""Rounds with two faults that overlap."""


class Planned(Struct, frozen=True, kw_only=True):
    """One round."""

    number: int
    faults: tuple[Fault, ...]


def planned(seed: int, number: int, kinds: Sequence[Kind] = ()) -> Planned:
    """The round of that number; ``kinds``: only these (all when empty)."""
    # A string seeds by its SHA-512: the same in every process, whatever PYTHONHASHSEED says.
    chance = random.Random(f"{seed}/{number}")
    among = list(kinds) or list(SHAPES)
    first = _fault(chance, among, ROLES, 0.0)
    faults = [first]
    if chance.random() * 100 < PAIRS_PERCENT:
        # Within the first one's hold, or right after it when it is a moment only.
        begin_s = chance.uniform(0.0, max(1.0, first.hold_s))
        others = [kind for kind in among if SHAPES[kind].place == "node" or SHAPES[kind].place != first.target]
        free = [role for role in ROLES if role != first.target]
        if others:
            faults.append(_fault(chance, others, free, begin_s))
    return Planned(number=number, faults=tuple(faults))


def _fault(chance: random.Random, kinds: Sequence[Kind], roles: Sequence[str], begin_s: float) -> Fault:
    kind = chance.choices(kinds, weights=[SHAPES[kind].weight for kind in kinds])[0]
    shape = SHAPES[kind]
    weights = [ROLE_WEIGHTS[ROLES.index(role)] for role in roles]
    target = chance.choices(roles, weights)[0] if shape.place == "node" else shape.place
    return Fault(
        kind=kind, target=target, begin_s=round(begin_s, 1), hold_s=round(chance.uniform(*shape.hold_s), 1)
    )
