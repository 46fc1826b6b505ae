"""The place: for how long this node holds its name without being of use to anybody.

Owns: when it gives its place up, so that others may act, and how long it stays away then.
Refuses: giving it up while its claimed guests run, since a fence would end them, while nobody waits for its
claims, or for a wait that has a name: a storage that does not answer, an unblock that may still land.
"""

from __future__ import annotations

import asyncio
from typing import Final

from ..ports import Hypervisor, Unavailable
from .foreign_guests import claimed_guests_run
from .mirror import Mirror

USELESS_S: Final = 60.0
"""Registered for so long, in however many sessions, and none of them ready for :data:`STABLE_S`."""
STABLE_S: Final = 30.0
AWAY_S: Final = 15.0
"""For the others: the grace, and a fence. Twice as long each time."""
AWAY_MOST_S: Final = 120.0
SOON_S: Final = 0.2
SOON_MOST_S: Final = 5.0


class Place:
    """What this process did with its node's place."""

    def __init__(self, name: str, mirror: Mirror, hypervisor: Hypervisor) -> None:
        self._name, self._mirror, self._hypervisor = name, mirror, hypervisor
        self._from_s: float | None = None
        """Since when it is held in vain; None: it is not."""
        self._ready_from_s: float | None = None
        self._soon = self._given_up = 0

    def registered(self) -> None:
        if self._from_s is None:
            self._from_s = asyncio.get_running_loop().time()

    def ready(self) -> None:
        self._ready_from_s = asyncio.get_running_loop().time()

    def waits(self) -> None:
        """For something with a name: that time does not count."""
        self._from_s = None

    async def away_s(self) -> float:
        """How long to stay away after a session ended, or did not come about; seconds."""
        now_s, ready_from_s = asyncio.get_running_loop().time(), self._ready_from_s
        self._ready_from_s = None
        if ready_from_s is not None:
            if now_s - ready_from_s >= STABLE_S:
                self._from_s, self._soon, self._given_up = None, 0, 0
                return 0.0
            self._soon += 1
        vain = self._from_s is not None and now_s - self._from_s >= USELESS_S
        vain = vain and bool(self._mirror.world.unfenced(self._name))
        if not vain and (ready_from_s is None or self._soon < 2):
            return 0.0
        try:
            if await claimed_guests_run(self._hypervisor, self._mirror.world, self._name):
                return 0.0
        except Unavailable:
            return 0.0  # perhaps they do
        if not vain:
            return float(min(SOON_MOST_S, SOON_S * 2 ** min(10, self._soon - 2)))
        self._from_s = None
        self._given_up += 1
        return float(min(AWAY_MOST_S, AWAY_S * 2 ** min(10, self._given_up - 1)))
