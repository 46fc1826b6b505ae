"""Boot slots: how many guests start at one time on this node, and which is next.

Owns: the places and the line before them. Refuses: booting (:mod:`.domain_actions`), and waiting: a VM whose
turn has not come gives its worker back, so that a node with hundreds of VMs to boot goes on doing everything
else.
Rule: by priority, then the oldest request. A VM in the line is either looked at when a place is free, or has
left it: none blocks the others by having forgotten that it waits.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from ...core.model import VmId

Line = tuple[int, int, VmId]
"""Negative priority, revision of the request."""


class BootSlots:
    """The places of one node; ``limit`` is asked each time, ``wake`` has a VM looked at."""

    def __init__(self, limit: Callable[[], int], wake: Callable[[VmId], None]) -> None:
        self._limit, self._wake = limit, wake
        self._going: set[VmId] = set()
        self._line: list[Line] = []
        self._lines: dict[VmId, Line] = {}

    def enter(self, vm: VmId, priority: int, request_mod: int) -> bool:
        """Take a place (then :meth:`place` must follow at once), or a place in the line."""
        self._leave_line(vm)
        mine = (-priority, request_mod, vm)
        free = self._limit() - len(self._going)
        if free > bisect_left(self._line, mine):
            self._going.add(vm)
            return True
        insort(self._line, mine)
        self._lines[vm] = mine
        # A place that is free is somebody's who stands before it, if they still want it: ask them.
        self._call(but=vm)
        return False

    @contextmanager
    def place(self, vm: VmId) -> Iterator[None]:
        """For as long as the boot lasts."""
        try:
            yield
        finally:
            self._going.discard(vm)
            self._call()

    def withdraw(self, vm: VmId) -> None:
        """It does not want to boot any more, or cannot now: the VMs behind it need not wait for it."""
        if self._leave_line(vm):
            self._call()

    def _leave_line(self, vm: VmId) -> bool:
        mine = self._lines.pop(vm, None)
        if mine is None:
            return False
        del self._line[bisect_left(self._line, mine)]
        return True

    def _call(self, but: VmId | None = None) -> None:
        for _, _, vm in self._line[: max(0, self._limit() - len(self._going))]:
            if vm != but:
                self._wake(vm)
