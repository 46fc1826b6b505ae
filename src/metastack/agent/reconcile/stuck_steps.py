"""Stuck steps: a step that is refused again and again is reported in the VM's status.

Owns: how often in a row, for VMs that this node owns. A claim that is refused is no fault.
Refuses: doing anything about it.
"""

from __future__ import annotations

from typing import Final

import structlog

from .event_router import Key

log = structlog.get_logger()

REPORT_AT: Final = 3


class StuckSteps:
    """Counts refusals in a row."""

    def __init__(self, node: str) -> None:
        self._node = node
        self._times: dict[Key, int] = {}
        self._told: set[Key] = set()

    def note(self, key: Key, error: Exception) -> bool:
        """One more; true when it is to be reported now: until it was :meth:`told`."""
        times = self._times[key] = self._times.get(key, 0) + 1
        if times == REPORT_AT:
            log.warning("step_stuck", node=self._node, key=key, times=times, error=str(error))
        return times >= REPORT_AT and key not in self._told

    def told(self, key: Key) -> None:
        """The report of it was heard."""
        self._told.add(key)

    def done(self, key: Key) -> bool:
        """The work on that key went well; true when a report of it is to be taken back."""
        self._told.discard(key)
        return self._times.pop(key, 0) >= REPORT_AT
