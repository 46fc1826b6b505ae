"""The fencer: which nodes are dead, whether the brake holds, and the way from intent to done.

Owns: what this node knows of other nodes' absence, and the fence operations under way.
Refuses: killing anything here; a fence acts in the storage, on the victim.
Rule: done is written only after the storage confirmed the block.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Collection, Sequence
from typing import Final

import msgspec
import structlog
from msgspec import Struct

from ...core import plan
from ...core.model import Claim, Fence, FenceReceipt, Fencing, NodeFacts
from ...core.placement import node_state
from ...core.protocol import fences
from ...core.protocol.host_return import expected
from ...core.protocol.maintenance import paused
from ...core.protocol.restored import away
from ...core.state.cluster_state import Seen, seen
from ...core.state.fence_proof import is_client
from ...core.state.keys import Kind
from ...ports import Clients, Denied, Unavailable
from ..context import AgentContext

log = structlog.get_logger()

LOUD_EVERY_S: Final = 60.0
"""How often a fence that cannot be confirmed is logged as an error."""
PASS_AFTER: Final = 2
"""After this many failures in a row another node is given the chance."""
PASS_S: Final = 15.0
"""How long the others have then."""
RETRY_MAX_S: Final = 8.0
LATE_AGAIN_S: Final = 0.2
SUSPECTED_S: Final = 10.0
"""A start that finds a lost node's client asks again sooner than this: after it, the client has gone."""


class Failed(Struct, frozen=True, kw_only=True):
    """A fence that the storage did not confirm."""

    count: int
    why: str
    until_s: float
    """Loop time before which this node does not try again."""
    logged_s: float


def _most_within(times: Sequence[float], window_s: float) -> int:
    """How many of these, in order, lie within one window at most."""
    most = first = 0
    for at, time_s in enumerate(times):
        while time_s - times[first] > window_s:
            first += 1
        most = max(most, at - first + 1)
    return most


class Fencer:
    """Watches the other nodes and fences those that are gone."""

    def __init__(self, node: AgentContext) -> None:
        self._node = node
        self._absent_from_s: dict[str, float] = {}
        self._rank: dict[str, tuple[int | None, float]] = {}
        self._working: set[str] = set()
        self._failed: dict[str, Failed] = {}
        self._known: set[str] = set()
        self._long_gone: dict[str, float] = {}
        """Absent when this agent started, and fenced at some time before: when it was first looked for."""
        self._suspects: dict[str, tuple[str, float]] = {}
        """Lost nodes of which a client has a disk open: why they are fenced, and until when that is news."""
        self._begun: dict[str, int] = {}
        """The revision of each intent for which the storage was asked for a block."""
        self._ends: dict[str, dict[int, float]] = {}
        """By victim: when which other node's lease would have ended, as etcd told first, loop seconds."""
        self.braked = ""
        """Why nothing is fenced right now; empty when the brake is off."""
        self._brake_until_s = 0.0
        """Until then, or news of a node, the brake's answer stays."""

    def observe(self, touched: Collection[str] = ()) -> None:
        """Note who is absent since when; called on every change of a node's records.

        ``touched``: nodes whose alive key was put or deleted just now. One of them that is absent vanished now,
        also when it came and went within one batch of events and was never seen to be alive.
        """
        now_s = asyncio.get_running_loop().time()
        world = self._node.world
        for name in world.nodes():
            fence = world.fence(name)
            if world.alive(name) is not None:
                self._absent_from_s.pop(name, None)
                self._long_gone.pop(name, None)
            else:
                if name in touched:
                    self._absent_from_s[name] = now_s
                self._absent_from_s.setdefault(name, now_s)
                if name not in self._known and fence is not None and fence.record and fence.record.receipt:
                    # Perhaps its death was dealt with long before this agent started.
                    self._long_gone[name] = now_s
            self._known.add(name)
        self._brake()

    def suspect(self, victim: str, why: str) -> None:
        """A start found a client of that lost node on its disk: it is fenced, also when it owns nothing.

        Safety: its claim may have been deleted by hand, or its fence made in another storage, while its guest
        runs on. Only this node knows, so it does not wait for its turn; grace and brake hold as ever.
        """
        self._suspects[victim] = why, asyncio.get_running_loop().time() + SUSPECTED_S

    def _suspected(self, victim: str) -> str:
        why, until_s = self._suspects.get(victim, ("", 0.0))
        return why if asyncio.get_running_loop().time() < until_s else ""

    def _brake(self) -> None:
        """Engage when too many nodes vanished together: that is our network, not their death."""
        world, config = self._node.world, self._node.world.config
        now_s, was, window_s = asyncio.get_running_loop().time(), self.braked, config.brake_window_s
        # Safety: the receipt may be of an earlier absence, and an agent that just started cannot know when a
        # node vanished. It counts as vanished now, until the window has passed.
        old = {name for name, at_s in self._long_gone.items() if now_s - at_s > window_s}
        recent = [at_s for name, at_s in self._long_gone.items() if name not in old]
        self._brake_until_s = min(recent, default=math.inf) + window_s
        joined = [n for n in world.nodes() if n not in old and self._counts(n)]
        times = sorted(self._absent_from_s[n] for n in joined if n in self._absent_from_s)
        most = _most_within(times, window_s)
        if not world.known_config.was_read:
            self.braked = f"brake: the settings cannot be read, and were not since {self._node.name} started"
        elif len(joined) > 1 and most * 100 > config.brake_percent * len(joined):
            self.braked = (
                f"brake: {most} of {len(joined)} nodes vanished within {config.brake_window_s} s; "
                "nothing is fenced until one returns"
            )
        else:
            self.braked = ""
        if self.braked != was:
            log.error("brake_on" if self.braked else "brake_off", node=self._node.name, why=self.braked or was)

    async def _late_renewals(self, victim: str) -> str:
        """Nodes whose renewal is late, if they would engage the brake were they gone; empty: none that matter.

        Nodes that die at one moment lose their leases up to a quarter of the TTL, and half a second, apart: by
        when the last was renewed. A node that died together with ``victim`` has not renewed for three quarters
        of the TTL by now; a node that is well has within the last one. So no node that is well has to be waited
        for. A node that renewed since this was asked first is well, also under a lease that is shorter than the
        settings say.
        """
        world, config = self._node.world, self._node.world.config
        joined = [name for name in world.nodes() if self._counts(name)]
        absent = sum(1 for name in joined if name in self._absent_from_s and name not in self._long_gone)
        living = [
            found for name in joined if name != self._node.name and (found := world.alive(name)) is not None
        ]
        late: list[str] = []
        ends = self._ends.setdefault(victim, {})
        for asked, alive in enumerate(living):
            if (absent + len(late) + len(living) - asked) * 100 <= config.brake_percent * len(joined):
                break  # were all the others late, the brake would not engage
            left_s = await self._node.store.left_s(alive.lease) if alive.lease else config.lease_ttl_s
            end_s = asyncio.get_running_loop().time() + left_s
            # Both are whole seconds, rounded down; 0 may be long over.
            renewed = left_s > 0 and end_s - ends.setdefault(alive.lease, end_s) > 1.0
            if left_s < config.lease_ttl_s / 2 and not renewed:
                late.append(alive.record.name if alive.record is not None else "?")
        engages = (absent + len(late)) * 100 > config.brake_percent * len(joined)
        return f"renewals of {', '.join(late)} are late" if late and engages else ""

    def _counts(self, name: str) -> bool:
        """The node joined and nobody cordoned it."""
        world, found = self._node.world, self._node.world.node_spec(name)
        cordoned = found is not None and found.record is not None and found.record.cordoned
        return world.facts(name) is not None and not cordoned

    async def consider(self, victim: str) -> float:
        """Look at one node; returns seconds until it should be looked at again (0: on change)."""
        if victim == self._node.name:
            return 0.0
        found = self._node.world.fence(victim)
        fence = found.record if found is not None else None
        if self._node.world.alive(victim) is not None and (fence is None or not fence.intent):
            # Nearly every node at every full look: to rank all nodes for each of them would cost their square.
            # And whose turn it is counts from when there is something to do.
            for kept in (self._failed, self._rank, self._ends, self._suspects):
                kept.pop(victim, None)
            return 0.0
        if asyncio.get_running_loop().time() > self._brake_until_s:
            self._brake()
        if not self._node.world.known_config.was_read:
            # Safety: nor is an intent of a person carried on. The settings may say fencing=client: blocking the
            # whole address would shut out other nodes. A person may also have set the brake against this.
            return 5.0
        snapshot = self._snapshot(victim)
        intent = (
            snapshot.fence is not None and snapshot.fence.record is not None and snapshot.fence.record.intent
        )
        if not intent and (snapshot.victim_alive or not (snapshot.unfenced_claims or snapshot.suspected)):
            self._failed.pop(victim, None)
        action = self._in_turn(snapshot)
        if isinstance(action, plan.Idle):
            return action.again_in_s
        if isinstance(action, plan.OpenIntent):
            if why := await self._late_renewals(victim):
                log.info("fence_deferred", node=self._node.name, victim=victim, why=why)
                return LATE_AGAIN_S
            action = self._in_turn(self._snapshot(victim))  # time has passed: another may be at it
            if isinstance(action, plan.Idle):
                return action.again_in_s
        self._working.add(victim)
        try:
            await self._fence(victim, action)
        finally:
            self._working.discard(victim)
        return 1.0

    def _snapshot(self, victim: str) -> plan.FenceSnapshot:
        """What the rulebook needs, as if it were this node's turn: :meth:`_in_turn` adds the rank."""
        node, world, now_s = self._node, self._node.world, asyncio.get_running_loop().time()
        fence, alive = world.fence(victim), world.alive(victim) is not None
        fencer = fence.record.intent_by if fence is not None and fence.record is not None else ""
        return plan.FenceSnapshot(
            victim=victim,
            node=node.name,
            session=0 if node.informer.etcd_untrusted else node.session.number,
            ready=node.session.ready,
            victim_alive=alive,
            absent_for_s=now_s - self._absent_from_s.get(victim, now_s),
            grace_s=world.config.grace_s,
            # Counted only where the rulebook asks for it: every claim is looked at.
            unfenced_claims=0 if alive else world.unfenced(victim),
            fence=fence,
            fencer_alive=bool(fencer) and world.alive(fencer) is not None,
            working=victim in self._working,
            braked=self.braked,
            paused=paused(world),
            expected=expected(world, victim),
            rank=0,
            waited_s=0.0,
            rank_delay_s=world.config.rank_delay_ms / 1000,
            suspected=self._suspected(victim),
            holdoff_s=max(0.0, self._failed[victim].until_s - now_s) if victim in self._failed else 0.0,
            away=away(world, victim),
            generation=world.generation,
        )

    def _in_turn(self, snapshot: plan.FenceSnapshot) -> plan.FenceAction:
        """What to do about it, and whether it is this node's turn. The turn is asked last, for a rank looks at
        every node. Time passes for ranks only while a node has to fence it, or all would at once when a brake
        is off."""
        victim, now_s = snapshot.victim, asyncio.get_running_loop().time()
        action = plan.plan_fence(snapshot)
        if isinstance(action, plan.Idle | plan.ContinueFence):
            self._rank.pop(victim, None)
            return action
        rank, noted = self._node.rank_of(f"fence:{victim}"), self._rank.get(victim)
        if noted is None and (snapshot.fence is None or snapshot.fence.ok.intent_by in fences.NOBODY):
            # the grace is over; a fencer that died gets one
            self._rank[victim] = rank, now_s - snapshot.grace_s
        elif noted is None or noted[0] != rank:
            self._rank[victim] = rank, now_s
        if snapshot.suspected and not snapshot.unfenced_claims:
            rank = 0
        waited_s = now_s - self._rank[victim][1] - snapshot.grace_s
        return plan.plan_fence(msgspec.structs.replace(snapshot, rank=rank, waited_s=waited_s))

    async def _fence(self, victim: str, action: plan.FenceAction) -> None:
        node = self._node
        mine = await self._intent(victim, action)
        if mine is None or await self._withdrawn(victim, mine):
            return
        self._begun[victim] = mine.mod
        # Safety: the addresses are read after the intent committed: none can be added behind it.
        entry = await node.store.get(node.keys.node_facts(victim))
        facts = seen(NodeFacts, entry).record if entry is not None else None
        try:
            why = mine.ok.intent_reason or self._suspected(victim)
            receipt = await self._block(victim, facts, why)
        except (Unavailable, Denied) as error:
            await self._fail(victim, mine, error)
            return
        self._failed.pop(victim, None)
        self._suspects.pop(victim, None)
        blocked = " ".join(receipt.addresses or receipt.clients)
        extra = node.event("node.fenced", victim, f"{receipt.method} {blocked}".strip())
        # Safety: done closes exactly the intent after which the block was made, and no later one: a victim
        # that came back in between has lifted this block, and what it does now needs another.
        if await node.commit(fences.done(node.keys, victim, mine, receipt, extra)):
            log.warning(
                "fenced",
                node=node.name,
                victim=victim,
                through=node.world.fenced_through(victim),
                method=receipt.method,
                osd_epoch=receipt.osd_epoch,
            )
            if flaw := node.world.fence_flaw(victim):
                # No node accepts this receipt. Other nodes fence first, and this one waits.
                self._hold_off(victim, f"the fence is not valid: {flaw}")
        else:
            # The intent was taken over or cancelled meanwhile. A victim that is back finds the block itself.
            log.warning("fence_superseded", node=node.name, victim=victim)

    async def _intent(self, victim: str, action: plan.FenceAction) -> Seen[Fence] | None:
        """This node's open intent, written if need be; None when somebody was faster."""
        node = self._node
        found = node.world.fence(victim)
        if isinstance(action, plan.OpenIntent):
            extra = node.event("node.fencing", victim)
            change = fences.intent(node.keys, node.session.me, victim, found, extra, at=node.clock.stamp())
        elif isinstance(action, plan.TakeOverIntent):
            assert found is not None
            before = found.ok.intent_by
            extra = node.event("node.fencing", victim, f"taken over from {before}")
            change = fences.take_over_intent(node.keys, node.session.me, victim, found, extra)
        else:
            return found
        me = node.session.me
        if not await node.commit(change):
            return None
        log.warning("fencing", node=node.name, victim=victim, state=node_state(node.world, victim).value)
        mine = node.world.fence(victim)
        if mine is None or mine.record is None or not mine.record.intent:
            return None
        same = (mine.record.intent_by, mine.record.intent_session) == (me.node, me.session)
        return mine if same else None

    async def _withdrawn(self, victim: str, mine: Seen[Fence]) -> bool:
        """The brake engaged, or a maintenance began, while this node's intent was on its way, perhaps for
        seconds: then it is taken back.

        Only one that this node opened, and for which nothing was blocked yet. What another opened, or a person,
        is carried on: nobody knows how far it got.
        """
        node = self._node
        self._brake()
        opened = mine.ok.intent_through == 0 and not mine.ok.intent_reason
        why = self.braked or paused(node.world)
        if not why or not opened or self._begun.get(victim) == mine.mod:
            return False
        if await node.commit(fences.withdraw_intent(node.keys, node.session.me, victim, mine)):
            log.warning("fence_withdrawn", node=node.name, victim=victim, why=why)
        return True

    async def _fail(self, victim: str, mine: Seen[Fence], error: Exception) -> None:
        """The block is not confirmed, so nobody takes anything over. Say so, wait, let another node try."""
        node, now_s = self._node, asyncio.get_running_loop().time()
        before = self._failed.get(victim)
        count = before.count + 1 if before is not None else 1
        logged_s = before.logged_s if before is not None else now_s - LOUD_EVERY_S
        loud = now_s - logged_s >= LOUD_EVERY_S
        (log.error if loud else log.debug)(
            "fence_failed",
            node=node.name,
            victim=victim,
            error=str(error),
            tries=count,
            hint="its VMs stay down until the storage confirms the fence",
        )
        # Also when nobody else is ready: the victim may be back, and waits while a living node is at it.
        passing = count % PASS_AFTER == 0
        self._failed[victim] = Failed(
            count=count,
            why=str(error),
            until_s=now_s + (PASS_S if passing else min(RETRY_MAX_S, 2.0 ** (count - 1))),
            logged_s=now_s if loud else logged_s,
        )
        if passing and await node.commit(fences.pass_intent(node.keys, node.session.me, victim, mine)):
            log.warning("fence_handed_over", node=node.name, victim=victim, tries=count)

    def _hold_off(self, victim: str, why: str) -> None:
        now_s = asyncio.get_running_loop().time()
        log.error("fence_rejected", node=self._node.name, victim=victim, why=why)
        self._failed[victim] = Failed(count=PASS_AFTER, why=why, until_s=now_s + PASS_S, logged_s=now_s)

    @property
    def message(self) -> str:
        """What a reader of this node should know of its fencing."""
        failing = "; ".join(f"cannot fence {victim}: {why}" for victim, why in self.failures.items())
        return self.braked or failing

    @property
    def failures(self) -> dict[str, str]:
        """Nodes whose fence is not confirmed, and what the storage said."""
        return {victim: failed.why for victim, failed in sorted(self._failed.items())}

    async def _block(self, victim: str, facts: NodeFacts | None, reason: str) -> FenceReceipt:
        node, why = self._node, reason or f"lease of {victim} expired"
        if node.storage.remote_fence and node.world.config.fencing is Fencing.CLIENT:
            receipt = await node.storage.fence_clients(await self._clients(victim, facts), node.name, why)
        else:
            receipt = await node.storage.fence(self._addresses(victim, facts), node.name, why)
        return receipt if receipt.at else msgspec.structs.replace(receipt, at=node.clock.stamp())

    def _addresses(self, victim: str, facts: NodeFacts | None) -> tuple[str, ...]:
        """Its whole addresses; raises Denied when blocking them would be wrong."""
        node = self._node
        addresses = facts.storage_addresses if facts is not None else ()
        if not node.storage.remote_fence:
            if is_client(facts):
                # Safety: a receipt by image-lock would be believed, and its guests write on.
                raise Denied(
                    f"the storage of {victim} supports a remote fence, but that of this node is files: "
                    f"correct [storage] in the agent's settings on {node.name}, or on {victim}"
                )
            return addresses
        if not addresses:
            raise Denied(f"{victim} never declared a storage address: it cannot be fenced")
        # Safety: a node that shares the address would be shut out too, and in lifting its own block it
        # would lift the victim's.
        for other in node.world.nodes():
            found = node.world.facts(other)
            theirs = found.record.storage_addresses if found is not None and found.record else ()
            mine = node.addresses if other == node.name else ()
            if other != victim and (shared := set(addresses) & {*theirs, *mine}):
                raise Denied(
                    f"{victim} shares the storage address {', '.join(sorted(shared))} with {other}: "
                    "a fence would block both; single clients can be blocked instead, see "
                    "docs/internals/safety.md (metastack config set fencing=client)"
                )
        return addresses

    async def _clients(self, victim: str, facts: NodeFacts | None) -> Clients:
        """Everybody there who is known; raises Denied when its agent never told who it is.

        Safety: the disks are those of its claims, read after the intent committed: it claims nothing behind it.
        """
        node = self._node
        if facts is None or not facts.storage_clients:
            raise Denied(f"{victim} never declared its storage client: it cannot be fenced by single clients")
        held = [seen(Claim, e).record for e in (await node.store.list(node.keys.prefix(Kind.CLAIM))).entries]
        listed = (await node.store.list(node.keys.prefix(Kind.NODE_FACTS))).entries
        others = [
            found for entry in listed if (found := seen(NodeFacts, entry).record) and found.name != victim
        ]
        return Clients(
            declared=facts.storage_clients,
            disks=tuple(sorted({claim.volume_uuid for claim in held if claim and claim.node == victim})),
            guest_user=facts.storage_guest_user,
            spared=tuple(client for other in others for client in other.storage_clients),
        )
