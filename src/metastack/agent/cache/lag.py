"""Lag: how late this node hears of changes, measured, and published in coarse steps.

Owns: the samples of the last while, and the step that is published.
Refuses: deciding what others make of it (core/placement).
Rule: a step is left upwards as soon as the samples say so and downwards only when they have said so for long:
every change of what is published is one more event for every agent.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Final

SAMPLES: Final = 256
WINDOW_S: Final = 60.0
"""Older samples say nothing about now."""
FEWEST: Final = 8
"""With fewer nobody knows."""
LEAST_MS: Final = 16
"""Below this it is not worth a word: 0."""
MOST_MS: Final = 4096
CALM_S: Final = 20.0
"""How long a lower step must have held before it is published."""


class Lag:
    """Samples of lateness, seconds: from an own commit's reply to its event, and of the loop itself."""

    def __init__(self) -> None:
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES)
        self._reported_ms = 0
        self._lower_since_s: float | None = None

    def note(self, now_s: float, late_s: float) -> None:
        """Something came that much late."""
        self._samples.append((now_s, late_s))

    def _measured_ms(self, now_s: float) -> float:
        """What one in a hundred exceeds (of fewer, the worst but one)."""
        while self._samples and self._samples[0][0] < now_s - WINDOW_S:
            self._samples.popleft()
        if len(self._samples) < FEWEST:
            return 0.0
        worst = sorted(late_s for _, late_s in self._samples)
        return 1000 * worst[min(len(worst) - 2, math.ceil(len(worst) * 0.99) - 1)]

    def reported_ms(self, now_s: float) -> int:
        """What to publish."""
        measured = self._measured_ms(now_s)
        step = 0 if measured < LEAST_MS else min(MOST_MS, 1 << math.ceil(math.log2(measured)))
        if step > self._reported_ms:
            self._reported_ms, self._lower_since_s = step, None
        elif step == self._reported_ms:
            self._lower_since_s = None
        elif self._lower_since_s is None:
            self._lower_since_s = now_s
        elif now_s - self._lower_since_s >= CALM_S:
            self._reported_ms, self._lower_since_s = step, None
        return self._reported_ms
