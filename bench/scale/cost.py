"""What following costs an agent on a real etcd: CPU of its process for each message, gRPC included, and memory.

Owns: bursts of wishes, claims and statuses that are written by others, and one agent that takes nothing.
Refuses: profiles and estimates: it is the CPU time of the whole process, threads of gRPC included.
Rule: an engine is asked which node takes a VM, so that claims are those that the agent expects, but for a few.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from operator import itemgetter
from typing import Any

from bench.harness import say
from bench.placement.cost import BY_ANOTHER
from bench.scale import load
from bench.scale.stage import Process, Stage, stage
from metastack.agent.cache.informer import LISTED
from metastack.core.model import NodeSpec
from metastack.core.placement import PlacementEngine
from metastack.core.protocol.guards import OwnSession
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import encode
from metastack.core.transaction import Batch, Entry, KeyEvent, Put, Transaction

PROFILE = os.environ.get("METASTACK_BENCH_PROFILE", "")
"""A file for a profile of the follower in bursts."""
BURST = 25
"""Claims follow wishes before anybody of later rank wonders."""
BEHIND = 100
"""Messages that are there at once when the follower is late. Fewer bytes than a stream's window."""
AT_ONCE = 8
"""Transactions that the writers have under way."""
DELIVERED_S = 0.1
"""After this long etcd has sent what it has to send. Later would only make the agent read more often."""
PACE_S = 0.01
"""Between two messages when they do not come in a burst."""


async def follow(nodes: int, before: int, vms: int, paced: int) -> dict[str, Any]:
    """One agent of so many nodes; each kind of message in bursts, then many at once, then all kinds paced."""
    async with stage() as one:
        await one.write([load.config(rank_delay_ms=1000)])
        others = await one.nodes([load.node(n) for n in range(1, nodes)], cordoned=False)
        shut = Put(load.KEYS.node_spec(load.node(0)), encode(NodeSpec(cordoned=True)))
        await one.write([Transaction(name="cordon", guards=(), effects=(shut,))])
        await one.write(load.settled(range(before), others))
        worker = await one.worker()
        await worker.ask("agents", first=0, count=1, endpoint=one.endpoint, most=16, boot_s=-1.0)
        bare = await one.worker()
        await bare.ask("bare", count=1, endpoint=one.endpoint, prefixes=[load.KEYS.prefix()])
        writer = await Writer.of(one, others)
        kinds = {"wish": writer.wish, "claim": writer.claim, "status": writer.status}
        spent = {kind: Spent() for kind in kinds}
        for first in range(before, before + vms, BURST):
            if PROFILE and first == before + BURST:
                await worker.ask("profile")
            for kind, write in kinds.items():
                changes = [write(n) for n in range(first, first + BURST)]
                if first > before:  # the first round warms caches up
                    revisions = await spent[kind].burst(one, worker, bare, changes)
                else:
                    revisions = await one.write(changes)
                writer.saw(changes, revisions)
        if PROFILE:
            await worker.ask("profile", path=PROFILE)
        told: dict[str, Any] = {kind: found.told() for kind, found in spent.items()}
        late, next_ = {kind: Spent() for kind in kinds}, before + vms
        for first in range(next_, next_ + vms // 2, BEHIND):
            for kind, write in kinds.items():
                changes = [write(n) for n in range(first, first + BEHIND)]
                writer.saw(changes, await late[kind].burst(one, worker, bare, changes, behind=True))
            next_ = first + BEHIND
        told["behind"] = {kind: found.told() for kind, found in late.items()}
        each = [(write, n) for n in range(next_, next_ + paced) for write in kinds.values()]
        told["paced"] = await _paced(one, worker, bare, writer, each)
        told["max_rss_kib"] = (await worker.ask("tell"))["max_rss_kib"]
        say(f"  {nodes} nodes: " + json.dumps(told))
        return told


class Spent:
    """CPU time of the follower and of a bare stream over bursts of one kind."""

    def __init__(self) -> None:
        self.messages, self.agent_s, self.bare_s = 0, 0.0, 0.0

    async def burst(
        self,
        one: Stage,
        worker: Process,
        bare: Process,
        changes: Sequence[Transaction],
        *,
        behind: bool = False,
    ) -> list[int]:
        """Write them; their revisions. ``behind``: while both stand still, so that all are there at once."""
        before = _cpu(worker, bare)
        with _stopped(worker, bare) if behind else contextlib.nullcontext():
            revisions = await one.write(changes, at_once=AT_ONCE)
            if behind:
                await asyncio.sleep(DELIVERED_S)
        await _reached(max(revisions), worker, bare)
        after = _cpu(worker, bare)
        # What the question costs is none of theirs: asked once more, when the answer is there already.
        await _reached(max(revisions), worker, bare)
        asked = _cpu(worker, bare)
        self.messages += len(changes)
        self.agent_s += 2 * after[0] - before[0] - asked[0]
        self.bare_s += 2 * after[1] - before[1] - asked[1]
        return revisions

    def told(self) -> dict[str, Any]:
        return {
            "messages": self.messages,
            "cpu_us": round(self.agent_s / self.messages * 1e6, 1),
            "bare_cpu_us": round(self.bare_s / self.messages * 1e6, 1),
        }


async def _reached(revision: int, *workers: Process) -> None:
    for worker in workers:
        await worker.ask("reached", revision=revision)


@contextlib.contextmanager
def _stopped(*workers: Process) -> Iterator[None]:
    for worker in workers:
        os.kill(worker.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for worker in workers:
            os.kill(worker.pid, signal.SIGCONT)


def _cpu(*workers: Process) -> list[float]:
    """Read from outside: a question in each burst of 25 would add tens of microseconds to a message."""
    return [time.clock_gettime(~worker.pid << 3 | 2) for worker in workers]


class Writer:
    """Commands and agents of others, with the engine that those would have."""

    def __init__(self, one: Stage, world: ClusterState, nodes: Sequence[OwnSession]) -> None:
        self._one, self._world, self._engine = one, world, PlacementEngine(world)
        self._nodes = {me.node: me for me in nodes}
        self._claims = 0

    @classmethod
    async def of(cls, one: Stage, nodes: Sequence[OwnSession]) -> Writer:
        world = ClusterState(load.KEYS)
        world.load(await one.store.list(*load.KEYS.prefixes(LISTED)))
        return cls(one, world, nodes)

    def wish(self, n: int) -> Transaction:
        return load.wishes([n])[0]

    def claim(self, n: int) -> Transaction:
        head = self._engine.waiting[load.spec(n).id].head
        self._claims += 1
        by_another = self._claims % round(1 / BY_ANOTHER) == 0
        # Compares are the writers' business: what is measured are the messages.
        change = load.claim(n, self._nodes[head[1 if by_another else 0]], 0)
        return Transaction(name="claim", guards=(), effects=change.effects, lease=change.lease)

    def status(self, n: int) -> Transaction:
        claim = self._world.claim(load.spec(n).id)
        assert claim is not None
        me = self._nodes[claim.ok.node]
        status = load.status(n, me, epoch=claim.ok.epoch)
        event = load.told(n, me, "vm.running")
        return Transaction(
            name="publish",
            guards=(),
            effects=(Put(load.KEYS.vm_status(load.spec(n).id), encode(status), leased=True), event),
            lease=me.lease,
        )

    def saw(self, changes: Sequence[Transaction], revisions: Sequence[int]) -> None:
        """Take in what was written, in the order in which etcd took it: that is the order of the line, and
        who writes several at a time is not asked for it."""
        for revision, change in sorted(zip(revisions, changes, strict=True), key=itemgetter(0)):
            puts = [effect for effect in change.effects if isinstance(effect, Put)]
            entries = [Entry(put.key, put.value, revision, revision, 1) for put in puts]
            batch = Batch(revision, tuple(KeyEvent(entry.key, revision, entry) for entry in entries))
            self._engine.update(self._world.apply(batch))


async def _paced(
    one: Stage,
    worker: Process,
    bare: Process,
    writer: Writer,
    each: Sequence[tuple[Callable[[int], Transaction], int]],
) -> dict[str, Any]:
    """CPU when each message finds the agent idle, without what it uses when nothing comes."""
    loop, spent, started = asyncio.get_running_loop(), Spent(), _cpu(worker, bare)
    await asyncio.sleep(len(each) * PACE_S)
    before = _cpu(worker, bare)
    idle_s = [b - a for a, b in zip(started, before, strict=True)]
    began, last = loop.time(), 0
    for at, (write, n) in enumerate(each):
        change = write(n)
        await asyncio.sleep(max(0.0, began + at * PACE_S - loop.time()))
        (last,) = await one.write([change], at_once=1)
        writer.saw([change], [last])
    await worker.ask("reached", revision=last)
    after = _cpu(worker, bare)
    spent.messages = len(each)
    spent.agent_s, spent.bare_s = (b - a - idle for a, b, idle in zip(before, after, idle_s, strict=True))
    return {
        **spent.told(),
        "pace_s": PACE_S,
        "idle_percent": round(idle_s[0] / (len(each) * PACE_S) * 100, 2),
    }
