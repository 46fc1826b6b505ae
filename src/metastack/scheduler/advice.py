"""Advice: from a schedule to the hints that nodes read.

Owns: which hints are written and withdrawn, and when. Refuses: thinking of places (core/placement/schedule).
Rules: what is hinted already is not written again. A hint is withdrawn when its VM is claimed, and when a
better plan says something else; not while a node is about to follow it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Final

import structlog

from ..core.model import Hint, VmId
from ..core.placement import PlacementEngine
from ..core.placement.schedule import BY, schedule
from ..core.protocol.leader_terms import LeaderTerm, advise
from ..core.state.keys import Keys
from ..core.transaction import Committed, Transaction
from ..ports import Refused, Store, Unavailable
from .picture import Picture

log = structlog.get_logger()

TOGETHER_S: Final = 0.05
"""What comes within this is looked at together. A lost node's VMs wait for the grace and the fence: longer."""
_RETRY_S: Final = 1.0
_SEEN_S: Final = 5.0
_AT_ONCE: Final = 100
"""Hints in one transaction."""


class Advice:
    """One scheduler's hints, in one term after another."""

    def __init__(self, store: Store, keys: Keys, name: str) -> None:
        self._store, self._keys = store, keys
        self._by = f"{BY}{name}"
        self._news = asyncio.Event()
        self.picture = Picture(store, keys, self._news.set)

    async def give(self, term: LeaderTerm) -> str:
        """Keep the hints right; returns why this scheduler may not any more."""
        loop, pause_s = asyncio.get_running_loop(), TOGETHER_S
        self._news.set()
        while True:
            await self._news.wait()
            await asyncio.sleep(pause_s)
            self._news.clear()
            if not self.picture.listed:
                continue
            begun_s = loop.time()
            changes = list(self._changes(term))
            # At most half of the time goes into thinking, however large the cluster is.
            pause_s = max(TOGETHER_S, loop.time() - begun_s)
            for change in changes:
                try:
                    outcome = await self._store.commit(change)
                except Unavailable as error:
                    log.warning("advice_write_failed", error=str(error), retry_in_s=_RETRY_S)
                    self._news.set()
                    await asyncio.sleep(_RETRY_S)
                    break
                except Refused as error:
                    return str(error)
                if not isinstance(outcome, Committed):
                    return "another scheduler is the leader"
                await self.picture.reached(outcome.revision, _SEEN_S)

    def _changes(self, term: LeaderTerm) -> Iterator[Transaction]:
        engine = self.picture.engine
        standing = mine(engine, term)
        plan = schedule(engine, {vm: hint.node for vm, hint in standing.items()})
        told = self._told(engine, standing, plan.places)
        waiting = engine.waiting
        gone = [
            vm
            for vm in standing
            if vm not in plan.places and not (vm in waiting and waiting[vm].head[:1] == (standing[vm].node,))
        ]
        if told:
            log.info("advice_written", vms=len(told), ahead=plan.ahead, gain=plan.why, term=term.revision)
        if gone:
            log.info("advice_withdrawn", vms=len(gone), term=term.revision)
        puts, drops = iter(told.items()), iter(gone)
        while some := dict(islice(puts, _AT_ONCE)):
            yield advise(self._keys, term, some, ())
        while fewer := list(islice(drops, _AT_ONCE)):
            yield advise(self._keys, term, {}, fewer)

    def _told(
        self, engine: PlacementEngine, standing: Mapping[VmId, Hint], places: Mapping[VmId, str]
    ) -> dict[VmId, Hint]:
        """What is to be said that is not said already."""
        found: dict[VmId, Hint] = {}
        for vm, node in sorted(places.items()):
            desired = engine.world.spec(vm)
            if desired is not None and desired.record is not None:
                hint = Hint(uuid=desired.record.uuid, node=node, by=self._by)
                if standing.get(vm) != hint:
                    found[vm] = hint
        return found


def mine(engine: PlacementEngine, term: LeaderTerm) -> dict[VmId, Hint]:
    """Hints of this term; those of another end with it."""
    return {
        vm: hint.record
        for vm, hint in engine.world.hints()
        if hint.lease == term.lease and hint.record is not None
    }
