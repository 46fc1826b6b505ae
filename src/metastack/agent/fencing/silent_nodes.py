"""Fencing of nodes with silent storage: how long it is silent, which node proves the storage, the intent.

Owns: what this node has seen of others' silences and proofs, by its own clock.
Refuses: the block: once the intent is open, :mod:`.fencer` goes on with it as with any other.
Rule: nothing is fenced for a silence that this node has not watched to its end while its own storage answered.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from ...core.plan import Idle
from ...core.protocol.maintenance import paused
from ...core.protocol.restored import away
from ...core.protocol.silence import (
    FenceSilent,
    SilenceSnapshot,
    intent_silent,
    is_ready,
    plan_silent,
    proves,
    silent_at,
    silent_nodes,
    too_many,
)
from ...ports import Refused, Unavailable
from ..context import AgentContext
from .storage_silence import SAY_AGAIN_S, StorageSilence

log = structlog.get_logger()

LOOK_EVERY_S: Final = 1.0
PROOF_S: Final = 3 * SAY_AGAIN_S
"""A proof is old when this node saw it this long ago."""


class SilentNodes:
    """Watches them, one look a second."""

    def __init__(self, node: AgentContext, mine: StorageSilence) -> None:
        self._node, self._mine = node, mine
        self._silent: dict[str, tuple[int, int, float]] = {}
        """Session, revision of the silence, and when this node saw it first."""
        self._proved: dict[str, tuple[int, float]] = {}
        """What each node proved, and when this node saw that first."""
        self._last = (-1, 0.0)
        """The revision of ``silenced``, and when this node saw it first."""
        self._few_from_s = 0.0
        """Since when only few are silent or gone; counted again whenever it is too many."""
        self.why: dict[str, str] = {}
        """Why each of them is not fenced."""

    async def run(self) -> None:
        """Look for ever."""
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.look()
            except (Unavailable, Refused) as error:
                log.info("silent_node_check_failed", node=self._node.name, error=str(error))

    async def look(self) -> None:
        self._note()
        for victim in list(self._silent):
            action = plan_silent(self._snapshot(victim))
            if isinstance(action, Idle):
                self.why[victim] = action.why
                continue
            # Its own probe, right before: what it knew may be seconds old.
            if await self._mine.ask() and isinstance(plan_silent(self._snapshot(victim)), FenceSilent):
                await self._fence(victim)
            return  # one at a time: the next look sees what came of it

    def _note(self) -> None:
        """What is there now, and since when this node has seen it."""
        world, now_s = self._node.world, asyncio.get_running_loop().time()
        last = world.silenced()
        if (mod := last.mod if last is not None else 0) != self._last[0]:
            self._last = (mod, now_s)
        silent = {name: at for name, at in silent_nodes(world).items() if name != self._node.name}
        self._silent = {
            name: known if (known := self._silent.get(name)) and known[:2] == now else (*now, now_s)
            for name, at in silent.items()
            if (now := (world.session(name), at))
        }
        self.why = {name: why for name, why in self.why.items() if name in self._silent}
        for name in world.nodes() if self._silent else ():
            found = world.alive(name)
            proved = found.record.storage_proved if found is not None and found.record is not None else 0
            if self._proved.get(name, (0, 0.0))[0] != proved:
                self._proved[name] = (proved, now_s)
        if not self._silent:
            self._proved.clear()
        elif too_many(world):
            self._few_from_s = now_s

    def _witness(self, victim: str) -> str:
        """The node that proves the storage: another one, or this one if no other is well."""
        world, now_s, at = self._node.world, asyncio.get_running_loop().time(), self._silent[victim][1]
        others = [name for name in world.nodes() if name not in (victim, self._node.name)]
        well = [name for name in others if is_ready(world.alive(name))]
        for name in well or [self._node.name]:
            fresh = now_s - self._proved.get(name, (0, -PROOF_S))[1] < PROOF_S
            if fresh and proves(world.alive(name), at):
                return name
        return ""

    def _snapshot(self, victim: str) -> SilenceSnapshot:
        node, world, now_s = self._node, self._node.world, asyncio.get_running_loop().time()
        last, from_s = world.silenced(), self._mine.answers_from_s
        whom = last.record.node if last is not None and last.record is not None else ""
        before = world.fence(whom) if whom else None
        session, at, seen_s = self._silent.get(victim, (0, 0, now_s))
        still = world.session(victim) == session and silent_at(world.alive(victim)) == at
        held = away(world, victim) or node.held() or ("" if world.known_config.was_read else "settings unread")
        return SilenceSnapshot(
            session=0 if node.informer.etcd_untrusted or not still or held else node.session.number,
            ready=node.session.ready,
            lost_s=world.config.storage_lost_s,
            remote_fence=node.storage.remote_fence,
            unfenced_claims=world.unfenced(victim),
            fence=world.fence(victim),
            silent_for_s=now_s - seen_s,
            answers_me_for_s=now_s - from_s if from_s is not None else 0.0,
            few_for_s=now_s - self._few_from_s,
            witness=self._witness(victim) if still else "",
            too_many=paused(world) or too_many(world),
            last=last,
            last_open=before is not None and (before.record is None or before.record.intent),
            last_for_s=now_s - self._last[1],
            rank=node.rank_of(f"fence:{victim}"),
            rank_delay_s=world.config.rank_delay_ms / 1000,
            generation=world.generation,
        )

    async def _fence(self, victim: str) -> None:
        node, world = self._node, self._node.world
        alive, name = world.alive(victim), self._witness(victim)
        word = world.alive(name)
        if alive is None or word is None:
            return
        since = alive.ok.storage_silent_since
        extra = node.event("node.fencing", victim, f"its storage was silent since {since}, and answers {name}")
        change = intent_silent(
            node.keys,
            node.session.me,
            victim,
            alive,
            (name, word),
            world.fence(victim),
            world.silenced(),
            extra,
            at=node.clock.stamp(),
        )
        if await node.commit(change):
            log.warning("fencing_silent_node", node=node.name, victim=victim, silent_since=since, witness=name)
