"""Claims on their way: the room that they will take, and several in one transaction.

Owns: reservations of this node's claims in flight, and merging those that are due at one moment.
Refuses: deciding who claims (core/plan) and what proves a claim (core/changes).
Rule: a merged transaction carries the whole proof of each claim in it. Where it fails each is tried alone, so
that a claim that lost its race takes nobody with it.

# Safety: guards are united, never dropped, and two claims that write one key (a token of a group, a disk's
record) never go together: the second is decided anew, from a view that has the first. When the outcome is
unknown it is unknown for each, and each is settled by its own claim.
Room is no matter of two writers, but of promises kept: between the check and the mirror's news of the claim
what is in flight counts as taken, and a claim whose outcome is unknown counts until it is settled.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Final

from ..core.change import MAX_OPERATIONS, Change, Guard
from ..core.model import VmId, VmSpec
from ..core.world import mod_of
from ..ports import Refused, Unavailable, UnknownOutcome
from .node import Node

MOST: Final = 16
"""Claims in one transaction."""


@dataclass
class _Asked:
    """One claim that waits to be sent."""

    vm: VmId
    change: Change
    won: bool | None = None
    error: Exception | None = field(default=None)

    @property
    def over(self) -> bool:
        return self.won is not None or self.error is not None


class Claims:
    """Sends this node's claims and takeovers."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._coming: dict[VmId, VmSpec] = {}
        """What is being claimed right now."""
        self._asked: deque[_Asked] = deque()
        self._turn = asyncio.Lock()

    def reserve(self, vm: VmId, spec: VmSpec) -> None:
        """Set the VM's room aside; raises Refused when this node has none, by its newest view.

        Hard limits are proven here, by the claimer itself: nothing is awaited between the look and this.
        """
        if vm not in self._coming:
            if why := self._node.board.short_of(vm, self._coming):
                raise Refused(f"{vm}: {'; '.join(why)}")
            self._coming[vm] = spec

    def free(self, vm: VmId) -> None:
        """Its claim is settled: it is mine, and counted so, or it is not."""
        self._coming.pop(vm, None)

    async def commit(self, vm: VmId, change: Change) -> bool:
        """Commit it, perhaps together with others; false when a guard of its own failed."""
        asked = _Asked(vm, change)
        self._asked.append(asked)
        try:
            async with self._turn:
                if not asked.over:
                    await asyncio.sleep(0)  # who is due at this very moment comes along
                    await self._send(self._batch())
        finally:
            if asked in self._asked:
                self._asked.remove(asked)
        if asked.error is not None:
            raise asked.error
        return bool(asked.won)

    def _batch(self) -> list[_Asked]:
        """The first in line and whoever can go with it."""
        batch: list[_Asked] = []
        guards: dict[tuple[str, str], int] = {}
        written: set[str] = set()
        effects = 0
        for asked in list(self._asked):
            if self._lost(asked):
                # While it waited for its turn; sending it would only say so once more.
                asked.won = False
                self._asked.remove(asked)
                continue
            change = asked.change
            fresh: dict[tuple[str, str], int] = {(g.key, g.field): g.value for g in change.guards}
            keys = [effect.key for effect in change.effects]
            fits = (
                len(guards | fresh) <= MAX_OPERATIONS
                and effects + len(keys) <= MAX_OPERATIONS
                and all(guards.get(where, value) == value for where, value in fresh.items())
                and written.isdisjoint(keys)
            )
            if batch and not (fits and (change.name, change.lease) == _kind(batch[0])):
                continue
            batch.append(asked)
            self._asked.remove(asked)
            guards |= fresh
            written.update(keys)
            effects += len(keys)
            if len(batch) == MOST:
                break
        return batch

    async def _send(self, batch: list[_Asked]) -> None:
        try:
            if len(batch) > 1:
                if await self._node.commit(_merged([asked.change for asked in batch])):
                    for asked in batch:
                        asked.won = True
                    return
                for asked in batch:
                    if self._lost(asked):
                        asked.won = False
            for asked in batch:
                if not asked.over:
                    await self._alone(asked)
        except (Unavailable, Refused) as error:
            for asked in batch:
                if not asked.over:
                    asked.error = error
        finally:
            for asked in batch:
                if not asked.over:  # whoever sent it was cancelled
                    asked.error = UnknownOutcome(f"{asked.change.name} {asked.vm}: nobody heard the answer")

    async def _alone(self, asked: _Asked) -> None:
        try:
            asked.won = await self._node.commit(asked.change)
        except (Unavailable, Refused) as error:
            asked.error = error

    def _lost(self, asked: _Asked) -> bool:
        """The mirror shows that it cannot be won any more: somebody else has claimed it."""
        key = self._node.keys.claim(asked.vm)
        seen = mod_of(self._node.world.claim(asked.vm))
        return any(guard.value != seen for guard in asked.change.guards if guard.key == key)


def _kind(asked: _Asked) -> tuple[str, int]:
    return asked.change.name, asked.change.lease


def _merged(parts: list[Change]) -> Change:
    """One change with the guards and effects of all: what they have in common is compared once."""
    guards: dict[Guard, None] = {}
    for change in parts:
        guards |= dict.fromkeys(change.guards)
    return Change(
        name=parts[0].name,
        guards=tuple(guards),
        effects=tuple(effect for change in parts for effect in change.effects),
        lease=parts[0].lease,
    )
