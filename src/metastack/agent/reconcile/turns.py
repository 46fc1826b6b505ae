"""Claim turns: the ranking as one node follows it: which pending VMs concern this node, and since when.

Owns: the time that those before this node have had, and what it has to look at after a change.
Refuses: deciding (core/plan); the ranking itself (core/placement).
Rule: an event costs what it changed. Only the first in rank looks at once. A node behind it has an appointment
for when its turn may come, and a node in no head for when the whole head has had its time. Then every node
looks, so that a head of deaf nodes delays a VM and never loses it. Most VMs are claimed before, and cost no
other node a look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from msgspec import Struct

from ...core.model import VmId, VmSpec
from ...core.placement import PendingVm, PlacementEngine, owned
from ...core.placement.groups import group_of
from ...core.placement.nodes import plus
from ...core.state.cluster_state import ClusterState, wants_on
from ...core.state.keys import Kind, ParsedKey

BUSY_HEAD_FACTOR: Final = 16
"""The delay of a rank is this many times longer while those before it take one VM after the other."""
LOOK_AGAIN_S: Final = 0.25
"""A VM that still waits after its head has had its time is looked at again after that; then ever later."""


class ClaimTurn(Struct, frozen=True):
    """When it is this node's turn."""

    rank: int
    delay_s: float
    """What those before it get."""
    waited_s: float
    """What they have had."""


@dataclass
class _HeadStart:
    """Since when those before this node have had a VM to themselves."""

    before: tuple[str, ...]
    at_s: float
    inside: bool
    """This node stands in the head."""
    behind: bool
    """But not first, and did not look yet."""


class ClaimTurns:
    """Follows the engine of one node."""

    def __init__(self, world: ClusterState, me: str, now_s: Callable[[], float]) -> None:
        self._me, self._now_s = me, now_s
        self._head_starts: dict[VmId, _HeadStart] = {}
        self._due: list[tuple[float, int, VmId, _HeadStart]] = []
        """When to look, or to ask whether it is time: the next one first. What was claimed or has other nodes
        before this one by then is passed over."""
        self._count = 0
        self._took_s: dict[str, float] = {}
        """When each node last took a VM that waited."""
        self._to_look_at: dict[VmId, None] = {}
        self._near_promises: dict[VmId, None] = {}
        """VMs that this node left: the VM that they must be near has a promise only, until the next claim."""
        self.to_release: dict[VmId, None] = {}
        """Claims of fenced sessions whose VMs are not wanted on: somebody has to release them."""
        self.world = world
        self.engine = PlacementEngine(world, follower=self)
        self._note_all_to_release()

    # --- following

    def update(self, touched: Iterable[ParsedKey]) -> None:
        """Take in what changed in the world since the last time."""
        keys = list(touched)
        if self.engine.update(keys):
            # A spec that is gone was not seen to go: pending VMs were looked for among the specs that exist.
            self._head_starts = {
                vm: start for vm, start in self._head_starts.items() if vm in self.engine.waiting
            }
            self._note_all_to_release()
        for key in keys:
            match key.kind:
                case Kind.VM_SPEC | Kind.CLAIM | Kind.HALT:
                    self._note_to_release(key.vm)
                case Kind.FENCE:
                    for vm, claim in self.world.claims():
                        if claim.record is not None and claim.record.node == key.names[0]:
                            self._note_to_release(vm)
                case _:
                    pass

    def _note_all_to_release(self) -> None:
        self.to_release.clear()
        for vm, _ in self.world.claims():
            self._note_to_release(vm)

    def _note_to_release(self, vm: VmId) -> None:
        claim = self.world.claim(vm)
        if claim is not None and not owned(self.world, claim) and not wants_on(self.world, vm):
            self.to_release[vm] = self._to_look_at[vm] = None
        else:
            self.to_release.pop(vm, None)

    def assigned(self, wait: PendingVm, missed: bool) -> None:
        head = wait.head
        if not head:
            self._head_starts.pop(wait.vm, None)
            return
        inside = self._me in head
        before = head[: head.index(self._me)] if inside else head
        known = self._head_starts.get(wait.vm)
        same = known is not None and known.before == before
        if known is not None and same and known.inside == inside:
            return
        # Who came into the head has waited with those before it already.
        at_s = known.at_s if known is not None and same else self._now_s()
        start = self._head_starts[wait.vm] = _HeadStart(before, at_s, inside, behind=inside and bool(before))
        if not before:
            self._to_look_at[wait.vm] = None
        self._appoint(at_s + self._least_s(start, missed), wait.vm, start)

    def _least_s(self, start: _HeadStart, missed: bool) -> float:
        """At least so long it is not this node's turn: no more is computed, for most are claimed by then.

        A node that missed gets a third of a rank's delay, and a full one then nothing
        (:mod:`metastack.core.placement.delays`).
        """
        if not start.before:
            return LOOK_AGAIN_S  # it is looked at now, and may have a reason to wait
        if not start.behind:
            return self.step_s
        return self.step_s / 3 if missed else self.step_s * len(start.before)

    def _appoint(self, due_s: float, vm: VmId, start: _HeadStart) -> None:
        self._count += 1
        heappush(self._due, (due_s, self._count, vm, start))

    def claimed(self, vm: VmId, node: str, waited: bool) -> None:
        self._head_starts.pop(vm, None)
        if waited:
            self._took_s[node] = self._now_s()
        if self._near_promises:
            self._to_look_at.update(self._near_promises)
            self._near_promises.clear()

    def withdrawn(self, vm: VmId) -> None:
        self._head_starts.pop(vm, None)

    # --- what is asked

    def to_look_at(self) -> list[VmId]:
        """What this node should look at since the last time it asked, in the order of the line."""
        found, self._to_look_at = list(self._to_look_at), {}
        return found

    @property
    def step_s(self) -> float:
        """What a rank gets at least."""
        return self.world.config.rank_delay_ms / 1000

    def due_s(self) -> float | None:
        """When to ask next what is :meth:`overdue`; None: not before something changes."""
        due = self._due
        while due and self._head_starts.get(due[0][2]) is not due[0][3]:
            heappop(due)
        return due[0][0] if due else None

    def overdue(self) -> list[VmId]:
        """VMs that this node should look at although nothing changed: its turn may have come, or all of their
        head has had its time and they wait still."""
        now_s, found = self._now_s(), list[VmId]()
        while (due_s := self.due_s()) is not None and due_s <= now_s:
            _, _, vm, start = heappop(self._due)
            if start.behind:
                start.behind = False
                found.append(vm)
                self._appoint(now_s + LOOK_AGAIN_S, vm, start)
                continue
            whole_s = self.engine.delay_ms(vm, len(self.engine.waiting[vm].head)) / 1000
            due_s = self._from_s(start, whole_s) + whole_s
            if due_s > now_s:
                due_s = min(due_s, now_s + self.step_s)  # by then more of the head may be full
            else:
                due_s = now_s + max(LOOK_AGAIN_S, now_s - start.at_s)
                found.append(vm)
            self._appoint(due_s, vm, start)
        return found

    def _from_s(self, start: _HeadStart, delay_s: float) -> float:
        """When the time of those before it began, or went on. A node that works off a burst, one VM after the
        other, is not deaf, and a node that came in between would only make it lose. A node that never gets to
        this VM loses its turn all the same, later."""
        took_s = max((self._took_s.get(name, 0.0) for name in start.before), default=0.0)
        return max(start.at_s, min(took_s, start.at_s + BUSY_HEAD_FACTOR * delay_s))

    def mine(self, vm: VmId) -> ClaimTurn | None:
        """This node's turn to take a waiting VM; None when it would not take it."""
        wait, start = self.engine.waiting.get(vm), self._head_starts.get(vm)
        if wait is None or start is None:
            return None
        now_s = self._now_s()
        if len(start.before) < len(wait.head):
            rank = len(start.before)
        else:
            whole_s = self.engine.delay_ms(vm, len(wait.head)) / 1000
            waited_s = now_s - self._from_s(start, whole_s)
            if waited_s < whole_s:
                return ClaimTurn(len(wait.head), whole_s, waited_s)
            found = self.engine.turn(vm, self._me, deep=True)
            if found is None:
                return None
            rank = found
        delay_s = self.engine.delay_ms(vm, rank) / 1000
        return ClaimTurn(rank, delay_s, now_s - self._from_s(start, delay_s))

    def short_of(self, vm: VmId, coming: dict[VmId, VmSpec]) -> tuple[str, ...]:
        """Why this node could not take the waiting VM once those that it is claiming right now are its own."""
        more = [
            spec for other, spec in coming.items() if other != vm and self.engine.placed_on(other) != self._me
        ]
        for spec in more:
            self.engine.groups.know(spec, self.engine.placed_specs())
            self._imagine(spec, 1)
        try:
            short = self.engine.fits(vm, self._me)
        finally:
            for spec in more:
                self._imagine(spec, -1)
        if not short and (short := self._conflicts_without_promises(vm)):
            self._near_promises[vm] = None
        return short

    def _conflicts_without_promises(self, vm: VmId) -> tuple[str, ...]:
        """What its groups have against this node while nobody counts who has not claimed.

        Safety: a promise takes capacity and keeps others away, but it may never be kept, and no VM is near, or
        even with, a VM that is nowhere.
        """
        wait = self.engine.waiting[vm]
        place = wait.spec.placement
        groups = {group_of(wait.spec, near) for near in place.affinity if near.required}
        groups |= {group_of(wait.spec, even) for even in place.spread if even.required}
        if not groups:
            return ()
        promised = [
            (other.spec, other.head[0])
            for other in self.engine.waiting.values()
            if other.head and (other is wait or any(group.holds(other.spec) for group in groups))
        ]
        for spec, node in promised:
            self.engine.groups.place(spec, node, -1)
        try:
            return self.engine.groups.refusals(wait.spec, self.engine.nodes[self._me])
        finally:
            for spec, node in promised:
                self.engine.groups.place(spec, node, 1)

    def _imagine(self, spec: VmSpec, sign: int) -> None:
        """Count it as here, or no longer. No order hears of it: it is taken back before one is asked."""
        view = self.engine.nodes.get(self._me)
        if view is not None:
            view.promised = plus(view.promised, spec, sign)
        self.engine.groups.place(spec, self._me, sign)
