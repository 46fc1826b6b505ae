"""Nodes that choose alone, with the very board that agents keep, simulated event by event.

Owns: agents' views, turns and claims. Refuses: a ranking of its own.
Rule: an agent acts on what has reached it, never on more. A board is a function of the events before it, so the
agents that hear in time share one: a head is noted with the event that made it, and each agent acts on it when
that event has reached *this* agent. Agents that lag get what is there in batches, which may make another board
of it: each of them keeps its own, and so do as many others as ``own`` asks for.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.placement.model import Delivery, Model, Stream
from bench.placement.truth import Job, Machine, Score, Truth
from metastack.core.model import Claim, ClusterConfig, NodeAlive, NodeFacts, Record, Resources, VmId, VmSpec
from metastack.core.placement import PlacementEngine
from metastack.core.state.cluster_state import ClusterState, Seen
from metastack.core.state.keys import Keys, Kind, ParsedKey

AGAIN_S = 0.25
"""How often everybody looks again at a VM that waits although all of its head has had its time."""


class Fed(ClusterState):
    """A world that takes records as they are: coding and decoding is another measurement's business."""

    def feed(self, key: ParsedKey, found: Seen[Record] | None, revision: int) -> None:
        if found is None:
            self._tables[key.kind].pop(key.names, None)
        else:
            self._tables[key.kind][key.names] = found
        if key.kind is Kind.CLUSTER:
            self.known_config.note(self._get(Kind.CLUSTER, ClusterConfig))
        self.revision = revision


@dataclass
class _Open:
    """A VM from its wish to its claim."""

    number: int
    vm: VmId
    spec: VmSpec
    heads: list[tuple[Delivery, tuple[str, ...], int]] = field(default_factory=list)
    """By which event the shared board had which head, and its number."""
    claimed: Delivery | None = None
    node: int = -1
    gone: bool = False
    began_s: float = 0.0
    """When the time of its first head began, as most hear it."""
    asked: set[int] = field(default_factory=set)
    """Who had its turn behind the head."""
    tries: set[int] = field(default_factory=set)
    """Agents whose claim is on its way."""


class _Agent:
    """One that keeps a board of its own."""

    def __init__(self, number: int, world: Fed, engine: PlacementEngine) -> None:
        self.number, self.world, self.engine = number, world, engine
        self.inbox: list[tuple[float, ParsedKey, Seen[Record] | None, int]] = []
        self.busy_s = 0.0
        self.told: dict[VmId, tuple[str, ...]] = {}


class Ranked:
    """One run."""

    def __init__(
        self,
        machines: Sequence[Machine],
        jobs: Sequence[Job],
        model: Model,
        aim: str,
        seed: int,
        *,
        own: int = 0,
        name: str = "ranked",
    ) -> None:
        self._machines, self._jobs, self._model = machines, jobs, model
        self._stream = Stream(model, len(machines), seed)
        self._truth = Truth(machines, min((job.cpus for job in jobs), default=1))
        self._score = Score(name)
        self._numbers = {machine.name: n for n, machine in enumerate(machines)}
        self._config = ClusterConfig(
            overcommit_cpu=1.0,
            host_reserve_mib=0,
            rank_delay_ms=round(model.rank_delay_s * 1000),
            weight_spread=1.0 if aim == "spread" else 0.0,
            weight_pack=1.0 if aim == "pack" else 0.0,
        )
        self._lags_ms = [self._stream.published_lag_ms(n) for n in range(len(machines))]
        self._asked: dict[int, tuple[int, int]] = {}
        """What each agent's claims on their way would take."""
        self._revision = 10
        self._open: dict[int, _Open] = {}
        self._by_vm: dict[VmId, _Open] = {}
        self._heap: list[tuple[float, int, str, Any]] = []
        self._count = 0
        self._world = self._begin()
        self._engine = PlacementEngine(self._world)
        mine = sorted(self._stream.lagging | set(range(min(own, len(machines)))))
        self._agents = {n: _Agent(n, world, PlacementEngine(world)) for n in mine for world in [self._begin()]}

    # --- the world

    def _begin(self) -> Fed:
        world = Fed(Keys())
        world.feed(ParsedKey(Kind.CLUSTER, ()), Seen(self._config, 1, 1), 1)
        for n, machine in enumerate(self._machines):
            alive = NodeAlive(
                name=machine.name,
                ready=True,
                capacity=Resources(cpus=machine.cpus, memory_mib=machine.memory_mib),
                bridges=("br0",),
                lag_ms=self._lags_ms[n],
            )
            world.feed(ParsedKey(Kind.NODE_ALIVE, (machine.name,)), Seen(alive, 5, 5), 5)
            facts = NodeFacts(name=machine.name, uuid=machine.name)
            world.feed(ParsedKey(Kind.NODE_FACTS, (machine.name,)), Seen(facts, 5, 5), 5)
        for n, job in enumerate(self._jobs):
            if job.node >= 0:
                spec = self._spec(n)
                key = (spec.project, spec.name)
                world.feed(ParsedKey(Kind.VM_SPEC, key), Seen(spec, 9, 9), 9)
                claim = Seen(self._claim(spec, self._machines[job.node].name), 10, 10)
                world.feed(ParsedKey(Kind.CLAIM, key), claim, 10)
        return world

    def _spec(self, n: int) -> VmSpec:
        job = self._jobs[n]
        return VmSpec(
            project="default", name=job.name, uuid=f"uuid-{n}", image="i", image_uuid="i", volume_uuid=f"v-{n}",
            cpus=job.cpus, memory_mib=job.memory_mib, disk_bytes=1,
        )  # fmt: skip

    @staticmethod
    def _claim(spec: VmSpec, node: str) -> Claim:
        return Claim(
            node=node, session=1 << 40, uuid=spec.uuid, volume_uuid=spec.volume_uuid, claim_id="c", epoch=1
        )

    def _tell(self, at: float, kind: Kind, vm: VmId, record: Record | None) -> Delivery:
        """An event: the shared board follows at once, each agent when it hears of it."""
        self._revision += 1
        key = ParsedKey(kind, (vm.project, vm.name))
        found = None if record is None else Seen(record, self._revision, self._revision)
        told = self._stream.send(at)
        self._world.feed(key, found, self._revision)
        self._engine.update((key,))
        for vm_waiting, wait in self._engine.waiting.items():
            state = self._by_vm[vm_waiting]
            if wait.head and (not state.heads or state.heads[-1][1] is not wait.head):
                self._head(state, told, wait.head)
        for agent in self._agents.values():
            arrived = float(told.arrived[agent.number])
            if not agent.inbox and agent.busy_s <= at:
                self._push(arrived, "hear", agent)
            agent.inbox.append((arrived, key, found, self._revision))
        return told

    def _head(self, state: _Open, told: Delivery, head: tuple[str, ...]) -> None:
        state.heads.append((told, head, len(state.heads)))
        if len(state.heads) == 1:
            late_s = float(np.median(told.done)) - told.at
            state.began_s = told.at + late_s
            self._push(state.began_s + self._engine.delay_ms(state.vm, 1) / 1000, "look", state)
        for rank, name in enumerate(head):
            agent = self._numbers[name]
            if agent in self._agents or agent in self._stream.deaf:
                continue
            delay_s = self._engine.delay_ms(state.vm, rank) / 1000
            self._push(float(told.done[agent]), "heard", (state, agent, len(state.heads) - 1, delay_s, False))

    # --- the run

    def run(self) -> tuple[Score, Truth]:
        for n, job in enumerate(self._jobs):
            if job.node >= 0:
                self._truth.change(job, job.node, 0.0, 1)
                spec = self._spec(n)
                self._open[n] = self._by_vm[spec.id] = _Open(n, spec.id, spec, node=job.node)
            else:
                self._push(job.created_s, "create", n)
            if job.deleted_s is not None:
                self._push(job.deleted_s, "delete", n)
        self._truth.begin()
        while self._heap:
            at, _, what, which = heapq.heappop(self._heap)
            getattr(self, f"_{what}")(at, which)
        self._score.rejected += sum(1 for state in self._open.values() if state.node < 0)
        return self._score, self._truth

    def _push(self, at: float, what: str, which: Any) -> None:
        self._count += 1
        heapq.heappush(self._heap, (at, self._count, what, which))

    def _create(self, at: float, n: int) -> None:
        spec = self._spec(n)
        self._open[n] = self._by_vm[spec.id] = _Open(n, spec.id, spec)
        self._tell(at, Kind.VM_SPEC, spec.id, spec)

    def _delete(self, at: float, n: int) -> None:
        state = self._open[n]
        if state.node < 0:
            wait = self._engine.waiting.get(state.vm)
            if (wait is not None and wait.head) or state.tries:
                self._push(at + 0.01, "delete", n)  # somebody is about to take it; it is deleted when it runs
                return
            self._score.rejected += 1
        else:
            self._truth.change(self._jobs[n], state.node, at, -1)
        state.gone = True
        del self._open[n]
        self._tell(at, Kind.VM_SPEC, state.vm, None)
        if state.node >= 0:
            self._tell(at, Kind.CLAIM, state.vm, None)
        del self._by_vm[state.vm]

    def _heard(self, at: float, which: tuple[_Open, int, int, float, bool]) -> None:
        """An agent of the shared board has worked off the event, and soon the slice or all that had arrived by
        then: its time runs from there. What arrives meanwhile comes after."""
        state, agent, number, delay_s, drained = which
        if self._knows_better(at, state, agent):
            return
        if not drained and (until := self._stream.busy_until(agent, at)) > at:
            if not delay_s:
                # Somewhere in a slice; on average in its middle.
                until = min(until, at + self._model.slice_events / 2 * self._model.agent_cpu_s)
            self._push(until, "heard", (state, agent, number, delay_s, True))
        elif delay_s:
            self._push(at + delay_s, "fire", (state, agent, number, False))
        else:
            self._fire(at, (state, agent, number, True))

    def _fire(self, at: float, which: tuple[_Open, int, int, bool]) -> None:
        """An agent of the shared board finds its time come."""
        state, agent, number, drained = which
        if self._knows_better(at, state, agent):
            return
        if not drained and (until := self._stream.busy_until(agent, at)) > at:
            self._push(until, "fire", (state, agent, number, True))  # first what has arrived
            return
        newer = [told for told, _, n in state.heads if n > number and told.done[agent] <= at]
        if newer:
            return  # another head: whoever is in it has another time
        if state.claimed is None and self._engine.fits(state.vm, self._machines[agent].name):
            return
        self._try(at, state, agent)

    def _knows_better(self, at: float, state: _Open, agent: int) -> bool:
        seen = state.claimed is not None and state.claimed.done[agent] <= at
        return state.gone or seen or agent in state.tries or state.node == agent

    def _try(self, at: float, state: _Open, agent: int) -> None:
        job, (cpus, mib) = self._jobs[state.number], self._asked.get(agent, (0, 0))
        # Its own load it knows exactly: what it holds, and what it has asked for.
        if not self._truth.fits(job, agent, cpus, mib):
            return
        self._asked[agent] = cpus + job.cpus, mib + job.memory_mib
        state.tries.add(agent)
        self._push(at + self._stream.claim_time(), "commit", (state, agent))

    def _commit(self, at: float, which: tuple[_Open, int]) -> None:
        """The claim reaches etcd: the first wins."""
        state, agent = which
        job, (cpus, mib) = self._jobs[state.number], self._asked[agent]
        self._asked[agent] = cpus - job.cpus, mib - job.memory_mib
        state.tries.discard(agent)
        if state.node >= 0 or state.gone:
            self._score.failed += 1
            return
        self._truth.change(job, agent, at, 1)
        state.node = agent
        self._score.placed += 1
        self._score.waits_ms.append((at - job.created_s) * 1000)
        claim = self._claim(state.spec, self._machines[agent].name)
        state.claimed = self._tell(at, Kind.CLAIM, state.vm, claim)
        state.heads.clear()

    # --- agents with boards of their own

    def _hear(self, at: float, agent: _Agent) -> None:
        """Work off what has arrived, act on it, and so on."""
        if at < agent.busy_s:
            self._push(agent.busy_s, "hear", agent)
            return
        if agent.number not in self._stream.deaf:
            self._mind(at, agent, drained=not agent.inbox or agent.inbox[0][0] > at)
        batch = [one for one in agent.inbox[: self._model.slice_events] if one[0] <= at]
        if batch:
            del agent.inbox[: len(batch)]
            agent.busy_s = at + len(batch) * self._model.agent_cpu_s
            for _, key, found, revision in batch:
                agent.world.feed(key, found, revision)
            agent.engine.update(dict.fromkeys(key for _, key, _, _ in batch))
            self._push(agent.busy_s, "hear", agent)
        elif agent.inbox:
            self._push(agent.inbox[0][0], "hear", agent)

    def _mind(self, at: float, agent: _Agent, *, drained: bool) -> None:
        """Whatever has this agent in its head since the last slice: its time runs from now."""
        me = self._machines[agent.number].name
        now: dict[VmId, tuple[str, ...]] = {}
        for vm, wait in agent.engine.waiting.items():
            if me in wait.head and (drained or me == wait.head[0]):
                now[vm] = wait.head
                if agent.told.get(vm) is not wait.head:
                    delay_s = agent.engine.delay_ms(vm, wait.head.index(me)) / 1000
                    self._push(at + delay_s, "turn", (agent, vm, wait.head))
        agent.told = now

    def _turn(self, at: float, which: tuple[_Agent, VmId, tuple[str, ...]]) -> None:
        agent, vm, head = which
        behind = agent.inbox and agent.inbox[0][0] <= at
        if at < agent.busy_s or (behind and self._machines[agent.number].name != head[0]):
            self._push(max(agent.busy_s, at + self._model.agent_cpu_s), "turn", which)
            return
        wait = agent.engine.waiting.get(vm)
        if wait is None or wait.head is not head:
            return
        if agent.engine.fits(vm, self._machines[agent.number].name):
            return
        state = self._by_vm.get(vm)
        if state is None:
            self._score.failed += 1  # deleted, which it does not know yet
        elif agent.number not in state.tries and state.node != agent.number:
            self._try(at, state, agent.number)

    # --- behind the head

    def _look(self, at: float, state: _Open) -> None:
        """The head has had its time: those behind it try, one rank delay after the other."""
        wait = self._engine.waiting.get(state.vm)
        if state.node >= 0 or state.gone or wait is None:
            return
        due_s = state.began_s + self._engine.delay_ms(state.vm, len(wait.head)) / 1000
        if wait.head and due_s > at:
            self._push(min(due_s, at + self._model.rank_delay_s), "look", state)
            return
        if not wait.head:
            self._push(at + AGAIN_S, "look", state)
            return
        for name in self._engine.behind(wait):
            agent = self._numbers[name]
            if agent not in self._stream.deaf and agent not in state.asked:
                state.asked.add(agent)
                self._score.late += 1
                self._try(at, state, agent)
                # Whoever comes next leaves it to this one for half the delay of a rank.
                self._push(at + self._model.rank_delay_s / 2, "look", state)
                return
        state.asked.clear()
        self._push(at + AGAIN_S, "look", state)


def ranked(
    machines: Sequence[Machine], jobs: Sequence[Job], model: Model, aim: str, seed: int, **more: Any
) -> tuple[Score, Truth]:
    """The algorithm that is shipped."""
    return Ranked(machines, jobs, model, aim, seed, **more).run()
