"""The model of the simulation: who hears of what when, and what a claim costs.

Owns: the numbers that the issue states, and the delivery times that follow from them.
Refuses: any algorithm. Rule: a stream is delivered in order: what was sent later never arrives earlier.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import asdict, dataclass
from math import log
from typing import Any

import numpy as np

from metastack.agent.cache.lag import SAMPLES, Lag

_Z99 = 2.3263478740408408
"""The 99th percentile of the standard normal distribution."""
_KEPT_S = 2.0
"""Deliveries older than that have arrived everywhere."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """Seconds."""

    claim_min_s: float = 0.001
    claim_max_s: float = 0.002
    """A claim is decided in etcd so long after it was sent, evenly spread."""
    watch_p50_s: float = 0.003
    watch_p99_s: float = 0.030
    """Lognormal, drawn for each agent ..."""
    watch_spell_s: float = 1.0
    """... and drawn anew so often. 0: for each message. A stream is in order, so a late message holds up those
    behind it: drawn for each of a thousand messages a second, p50 is no longer 3 ms but as good as p99."""
    agent_cpu_s: float = 0.0001
    """Of each agent for each event."""
    slice_events: int = 64
    """A node that is first takes what is its own after so many events at most. The time of those behind it runs
    from when they have worked off all that had arrived, and they work off the rest before they claim."""
    lagging_one_in: int = 100
    lag_s: float = 0.250
    lag_published: bool = True
    """Every node says in its alive record how late it hears: its 99th percentile in coarse steps."""
    deaf_percent: float = 0.0
    """Alive, never claiming."""
    rank_delay_s: float = 0.030
    jitter_s: float = 0.100
    """Of the baseline that waits at random."""
    publish_every_s: float = 1.0
    """How old another node's published load may be, for the baseline that ranks by it."""

    def told(self) -> dict[str, Any]:
        return asdict(self)


class Delivery:
    """One event on its way: when it arrives at each agent, and when that agent has worked it off."""

    __slots__ = ("arrived", "at", "done")

    def __init__(self, at: float, arrived: np.ndarray, done: np.ndarray) -> None:
        self.at, self.arrived, self.done = at, arrived, done


class Stream:
    """One ordered stream from etcd to every agent."""

    def __init__(self, model: Model, agents: int, seed: int) -> None:
        self._model, self._agents = model, agents
        self._random = np.random.default_rng([seed, agents])
        self._mu, self._sigma = log(model.watch_p50_s), log(model.watch_p99_s / model.watch_p50_s) / _Z99
        marks = self._random.permutation(agents)
        lagging = round(agents / model.lagging_one_in) if model.lagging_one_in else 0
        deaf = round(agents * model.deaf_percent / 100)
        self.lagging = set(map(int, marks[:lagging]))
        self.deaf = set(map(int, marks[lagging : lagging + deaf]))
        self._extra = np.zeros(agents)
        self._extra[list(self.lagging)] = model.lag_s
        self._drawn, self._delay = -self._random.uniform(0.0, model.watch_spell_s, agents), self._draw()
        self._last = Delivery(0.0, np.zeros(agents), np.zeros(agents))
        self._log: list[Delivery] = []

    def _draw(self) -> np.ndarray:
        return self._random.lognormal(self._mu, self._sigma, self._agents) + self._extra

    def published_lag_ms(self, agent: int) -> int:
        """What the node says of itself, once it has measured for a while; by the agents' own code."""
        if not self._model.lag_published:
            return 0
        lag = Lag()
        draws = np.exp(self._mu + self._sigma * self._random.standard_normal(SAMPLES)) + self._extra[agent]
        for late_s in draws:
            lag.note(0.0, float(late_s))
        return lag.reported_ms(0.0)

    def send(self, at: float) -> Delivery:
        """An event that was committed then; calls come in the order of time."""
        if at != self._last.at:  # what is committed at one moment is one message
            anew = at - self._drawn >= self._model.watch_spell_s
            if anew.any():
                self._delay = np.where(anew, self._draw(), self._delay)
                self._drawn = np.where(anew, at, self._drawn)
        arrived = np.maximum(self._last.arrived, at + self._delay)
        done = np.maximum(self._last.done, arrived) + self._model.agent_cpu_s
        self._last = Delivery(at, arrived, done)
        self._log.append(self._last)
        if len(self._log) >= 4096 and self._log[1024].at < at - _KEPT_S:
            del self._log[: bisect_right(self._log, at - _KEPT_S, key=lambda one: one.at)]
        return self._last

    def busy_until(self, agent: int, now: float) -> float:
        """When that agent will have worked off what has arrived by now; not above ``now``: it is idle."""
        at = bisect_right(self._log, now, key=lambda one: one.arrived[agent])
        return float(self._log[at - 1].done[agent]) if at else 0.0

    def claim_time(self) -> float:
        """How long one claim takes until it is decided."""
        return float(self._random.uniform(self._model.claim_min_s, self._model.claim_max_s))

    def times(self, low: float, high: float) -> np.ndarray:
        """One evenly spread time for each agent."""
        return self._random.uniform(low, high, self._agents)
