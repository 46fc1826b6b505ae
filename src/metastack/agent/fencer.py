"""Fencing other nodes: who is dead, whether the brake holds, and the way from intent to done.

Owns: what this node knows of other nodes' absence, and the fence operations under way.
Refuses: killing anything here; a fence acts in the storage, on the victim.
Rule: done is written only after the storage confirmed the block.
"""

from __future__ import annotations

import asyncio

import structlog

from ..core import changes, plan
from ..core.model import FenceReceipt, NodeFacts
from ..core.placement import node_state
from ..core.world import seen
from ..ports import Denied, Unavailable
from .node import Node

log = structlog.get_logger()


class Fencer:
    """Watches the other nodes and fences those that are gone."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._absent_from_s: dict[str, float] = {}
        self._rank: dict[str, tuple[int | None, float]] = {}
        self._working: set[str] = set()
        self.braked = ""
        """Why nothing is fenced right now; empty when the brake is off."""

    def observe(self) -> None:
        """Note who is absent since when; called on every change of a node's records."""
        now_s = asyncio.get_running_loop().time()
        for name in self._node.world.nodes():
            if self._node.world.alive(name) is None:
                self._absent_from_s.setdefault(name, now_s)
            else:
                self._absent_from_s.pop(name, None)
        self._brake()

    def _brake(self) -> None:
        """Engage when too many nodes vanished together: that is our network, not their death."""
        world, config = self._node.world, self._node.world.config
        joined = [n for n in world.nodes() if world.facts(n) is not None and not self._cordoned(n)]
        times = sorted(self._absent_from_s[n] for n in joined if n in self._absent_from_s)
        most = 0
        for at, start in enumerate(times):
            most = max(most, sum(1 for t in times[at:] if t - start <= config.brake_window_s))
        was = self.braked
        if len(joined) > 1 and most * 100 > config.brake_percent * len(joined):
            self.braked = (
                f"brake: {most} of {len(joined)} nodes vanished within {config.brake_window_s} s; "
                "nothing is fenced until one returns"
            )
        else:
            self.braked = ""
        if self.braked != was:
            log.error("brake_on" if self.braked else "brake_off", node=self._node.name, why=self.braked or was)

    def _cordoned(self, name: str) -> bool:
        found = self._node.world.node_spec(name)
        return found is not None and found.record is not None and found.record.cordoned

    async def consider(self, victim: str) -> float:
        """Look at one node; returns seconds until it should be looked at again (0: on change)."""
        if victim == self._node.name:
            return 0.0
        view = self._view(victim)
        action = plan.plan_fence(view)
        if isinstance(action, plan.Idle):
            return action.again_in_s
        self._working.add(victim)
        try:
            await self._fence(victim, action)
        finally:
            self._working.discard(victim)
        return 1.0

    def _view(self, victim: str) -> plan.FenceView:
        node, world = self._node, self._node.world
        now_s = asyncio.get_running_loop().time()
        fence = world.fence(victim)
        through = world.fenced_through(victim)
        rank = node.rank_of(f"fence:{victim}")
        if self._rank.get(victim, (None, 0.0))[0] != rank or victim not in self._rank:
            self._rank[victim] = (rank, now_s)
        fencer = fence.record.intent_by if fence is not None and fence.record is not None else ""
        return plan.FenceView(
            victim=victim,
            node=node.name,
            session=0 if node.mirror.went_back else node.session.token,
            ready=node.session.ready,
            victim_alive=world.alive(victim) is not None,
            absent_for_s=now_s - self._absent_from_s.get(victim, now_s),
            grace_s=world.config.grace_s,
            unfenced_claims=sum(
                1
                for _, claim in world.claims()
                if claim.record is not None and claim.record.node == victim and claim.record.session > through
            ),
            fence=fence,
            fencer_alive=bool(fencer) and world.alive(fencer) is not None,
            working=victim in self._working,
            braked=self.braked,
            rank=rank,
            waited_s=now_s - self._rank[victim][1] - world.config.grace_s,
            rank_delay_s=world.config.rank_delay_ms / 1000,
        )

    async def _fence(self, victim: str, action: plan.FenceAction) -> None:
        node = self._node
        found = node.world.fence(victim)
        if isinstance(action, plan.OpenIntent):
            change = changes.intent(
                node.keys, node.session.me, victim, found, node.event("node.fencing", victim)
            )
        else:
            assert found is not None
            change = changes.take_over_intent(node.keys, node.session.me, victim, found)
        if not await node.commit(change):
            return
        log.warning("fencing", node=node.name, victim=victim, state=node_state(node.world, victim).value)
        # Safety: the addresses are read after the intent committed: none can be added behind it.
        entry = await node.store.get(node.keys.node_facts(victim))
        facts = seen(NodeFacts, entry).record if entry is not None else None
        try:
            receipt = await self._block(victim, facts)
        except (Unavailable, Denied) as error:
            log.error(
                "fence_failed",
                node=node.name,
                victim=victim,
                error=str(error),
                hint="its VMs stay down until the storage confirms the fence",
            )
            raise
        mine = node.world.fence(victim)
        if mine is None or mine.record is None or mine.record.intent_by != node.name:
            return
        extra = node.event("node.fenced", victim, f"{receipt.method} {' '.join(receipt.addresses)}".strip())
        if await node.commit(changes.done(node.keys, victim, mine, receipt, extra)):
            log.warning(
                "fenced",
                node=node.name,
                victim=victim,
                through=node.world.fenced_through(victim),
                method=receipt.method,
                osd_epoch=receipt.osd_epoch,
            )

    async def _block(self, victim: str, facts: NodeFacts | None) -> FenceReceipt:
        node = self._node
        addresses = facts.storage_addresses if facts is not None else ()
        if node.storage.remote_fence:
            if not addresses:
                raise Denied(f"{victim} never declared a storage address: it cannot be fenced")
            shared = set(addresses) & set(node.addresses)
            if shared:
                raise Denied(f"{victim} shares the storage address {', '.join(sorted(shared))} with this node")
        return await node.storage.fence(addresses, node.name, f"lease of {victim} expired")
