"""Lag: how late a node hears of changes, in steps coarse enough that publishing it is no news of its own.

Owns: what is published. Refuses: measuring; an agent knows when its own writes came back to it.
Rule: what counts is the bad case, not the usual one: those behind a node in rank wait twice this before they
claim, and a claim that is lost because somebody did not wait long enough costs more than the wait.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil

STEPS_MS = (0, 25, 50, 100, 250, 500, 1000)
FEWEST = 20
"""Of fewer samples nothing is said."""


def published_lag_ms(samples_ms: Sequence[float]) -> int:
    """The step nearest to the 99th percentile of what was measured."""
    if len(samples_ms) < FEWEST:
        return 0
    late = sorted(samples_ms)[ceil(len(samples_ms) * 0.99) - 1]
    return min(STEPS_MS, key=lambda step: (abs(step - late), step))
