"""Turns: the board as one node follows it: which waiting VMs are this node's business, and since when.

Owns: the time that those before this node have had, and what it has to look at after a change.
Refuses: deciding (core/plan); the ranking itself (core/placement).
Rule: an event costs what it changed. Whoever stands in no head of a VM does nothing for it until the whole
head has had its time; then everybody looks, so that a head of deaf nodes delays a VM and never loses it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from msgspec import Struct

from ..core.keys import Kind, ParsedKey
from ..core.model import VmId, VmSpec
from ..core.placement import Board, Waiting, answered
from ..core.placement.nodes import plus
from ..core.world import World, wants_on

LONGER: Final = 16
"""So many times the delay of a rank is waited while those before it take one VM after the other."""
AGAIN_S: Final = 0.25
"""A VM that still waits after its head has had its time is looked at again after that; then ever later."""


class Turn(Struct, frozen=True):
    """When it is this node's turn."""

    rank: int
    delay_s: float
    """What those before it get."""
    waited_s: float
    """What they have had."""


@dataclass
class _Since:
    """Since when those before this node have had a VM to themselves."""

    before: tuple[str, ...]
    at_s: float
    due_s: float
    """When everybody looks, or asks whether it is time."""


class Turns(Board):
    """A board that belongs to one node."""

    def __init__(self, world: World, me: str, now_s: Callable[[], float]) -> None:
        self._me, self._now_s = me, now_s
        self._since: dict[VmId, _Since] = {}
        self._took_s: dict[str, float] = {}
        """When each node last took a VM that waited."""
        self._news: dict[VmId, None] = {}
        self.left: dict[VmId, None] = {}
        """Claims of fenced sessions whose VMs are not wanted on: somebody has to release them."""
        super().__init__(world)

    # --- following

    def update(self, touched: Iterable[ParsedKey]) -> None:
        keys = list(touched)
        super().update(keys)
        for key in keys:
            match key.kind:
                case Kind.VM_SPEC | Kind.CLAIM | Kind.HALT:
                    self._see_left(key.vm)
                case Kind.FENCE:
                    for vm, claim in self.world.claims():
                        if claim.record is not None and claim.record.node == key.names[0]:
                            self._see_left(vm)
                case _:
                    pass

    def _rebuild(self) -> None:
        self.left.clear()
        super()._rebuild()
        # Whose spec is gone was not seen to go: what waits was looked for among the specs that there are.
        self._since = {vm: since for vm, since in self._since.items() if vm in self.waiting}
        for vm, _ in self.world.claims():
            self._see_left(vm)

    def _see_left(self, vm: VmId) -> None:
        claim = self.world.claim(vm)
        if claim is not None and not answered(self.world, claim) and not wants_on(self.world, vm):
            self.left[vm] = self._news[vm] = None
        else:
            self.left.pop(vm, None)

    def _assign(self, wait: Waiting) -> None:
        super()._assign(wait)
        head = wait.head
        if not head:
            self._since.pop(wait.vm, None)
            return
        before = head[: head.index(self._me)] if self._me in head else head
        known = self._since.get(wait.vm)
        if known is not None and known.before == before:
            return
        now_s = self._now_s()
        # At least so long, which costs nothing to say: most are claimed long before anybody asks for how long.
        # Who is in the head has an appointment of its own, and may have a reason to wait.
        self._since[wait.vm] = _Since(before, now_s, now_s + (self.step_s if before is head else AGAIN_S))
        if before is not head:
            self._news[wait.vm] = None

    def _claimed(self, vm: VmId, spec: VmSpec, node: str) -> None:
        self._since.pop(vm, None)
        if vm in self.waiting:
            self._took_s[node] = self._now_s()
        super()._claimed(vm, spec, node)

    def _take_off(self, vm: VmId) -> None:
        self._since.pop(vm, None)
        super()._take_off(vm)

    # --- what is asked

    def news(self) -> list[VmId]:
        """What this node should look at since the last time it asked, in the order of the line."""
        found, self._news = list(self._news), {}
        return found

    @property
    def step_s(self) -> float:
        """What a rank gets at least."""
        return self.world.config.rank_delay_ms / 1000

    def overdue(self) -> tuple[list[VmId], float]:
        """VMs that wait although all of their head has had its time; and in how many seconds to ask again."""
        now_s, found, again_s = self._now_s(), [], AGAIN_S
        for vm, since in self._since.items():
            if since.due_s <= now_s:
                whole_s = self.delay_ms(vm, len(self.waiting[vm].head)) / 1000
                due_s = self._from_s(since, whole_s) + whole_s
                if due_s > now_s:
                    since.due_s = min(due_s, now_s + self.step_s)  # by then more of the head may be full
                else:
                    since.due_s = now_s + max(AGAIN_S, now_s - since.at_s)
                    found.append(vm)
            again_s = min(again_s, since.due_s - now_s)
        return found, again_s

    def _from_s(self, since: _Since, delay_s: float) -> float:
        """When the time of those before it began, or went on: who works off a burst, one VM after the other, is
        not deaf, and whoever came in between would only make it lose. Who never gets to this one loses its turn
        all the same, later."""
        took_s = max((self._took_s.get(name, 0.0) for name in since.before), default=0.0)
        return max(since.at_s, min(took_s, since.at_s + LONGER * delay_s))

    def mine(self, vm: VmId) -> Turn | None:
        """My turn to take a waiting VM; None when I would not take it."""
        wait, since = self.waiting.get(vm), self._since.get(vm)
        if wait is None or since is None:
            return None
        now_s = self._now_s()
        if len(since.before) < len(wait.head):
            rank = len(since.before)
        else:
            whole_s = self.delay_ms(vm, len(wait.head)) / 1000
            waited_s = now_s - self._from_s(since, whole_s)
            if waited_s < whole_s:
                return Turn(len(wait.head), whole_s, waited_s)
            found = self.turn(vm, self._me, deep=True)
            if found is None:
                return None
            rank = found
        delay_s = self.delay_ms(vm, rank) / 1000
        return Turn(rank, delay_s, now_s - self._from_s(since, delay_s))

    def short_of(self, vm: VmId, coming: dict[VmId, VmSpec]) -> tuple[str, ...]:
        """Why this node could not take the waiting VM once those that it is claiming right now are its own."""
        more = [spec for other, spec in coming.items() if other != vm and self.placed_on(other) != self._me]
        for spec in more:
            self.groups.know(spec, self._placed_specs())
            self._imagine(spec, 1)
        try:
            return self.fits(vm, self._me)
        finally:
            for spec in more:
                self._imagine(spec, -1)

    def _imagine(self, spec: VmSpec, sign: int) -> None:
        """Count it as here, or no longer. No order hears of it: it is taken back before one is asked."""
        view = self.nodes.get(self._me)
        if view is not None:
            view.promised = plus(view.promised, spec, sign)
        self.groups.place(spec, self._me, sign)
