"""A process of the real-etcd benches: agents on twins of hypervisor and storage, or bare watch streams.

Owns: what runs beside etcd. Refuses: deciding what is measured; it does what one line of JSON says, and answers
with one. Rule: agents are the shipped ones on the shipped store; only their patience is longer, as a hundred of
them share one core here, where each has a machine in life.
"""

from __future__ import annotations

import asyncio
import cProfile
import ctypes
import json
import os
import resource
import signal
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc.aio
import structlog
import uvloop
from aetcd import rpc

from bench.scale import load
from bench.scale.wire import Followed, Wire
from metastack.agent import context as agent_node
from metastack.agent.agent import Agent
from metastack.agent.cache import lag as agent_lag
from metastack.agent.cache.informer import Informer
from metastack.agent.clock import Clock
from metastack.agent.reconcile import claim_batch as agent_claims
from metastack.agent.session.state_files import StateFiles
from metastack.agent.upkeep import gc_tuning as garbage
from metastack.core.protocol.guards import OwnSession
from metastack.core.state.keys import prefix_end
from metastack.core.transaction import Batch, Committed, KeyEvent, Outcome, Transaction, merged
from metastack.hypervisor.twin.hypervisor import MemoryHypervisor
from metastack.network.twin import MemoryNetwork
from metastack.ports import DomainSpec
from metastack.settings import StoreSettings
from metastack.storage.twin import MemoryPool, MemoryStorage
from metastack.store.etcd.channel import OPTIONS, Channels
from metastack.store.etcd.messages import key_of, txn_of
from metastack.store.etcd.store import EtcdStore

PATIENCE_S = 120.0
_DIE_WITH_PARENT = 1
"""PR_SET_PDEATHSIG: a bench that is killed leaves no agents behind."""
CHUNKS = 4
"""A raw writer has so many times 16 VMs under way."""


def patient() -> None:
    """Time-outs that mean "etcd is not well" where an agent has a machine mean "the others' turn" here."""
    assert Channels.ask.__kwdefaults__ is not None
    Channels.ask.__kwdefaults__["attempt_s"] = PATIENCE_S
    Informer.reached.__defaults__ = (PATIENCE_S,)
    agent_node.LOST_WAIT_S = PATIENCE_S
    # Every agent is as late as all that share its core; said aloud, each would come after the others in turn.
    agent_lag.LEAST_MS = 1 << 30  # type: ignore[misc]


class CountingStore(EtcdStore):
    """The store, and how many transactions of which kind it sent."""

    def __init__(self, endpoint: str, counts: Counter[str]) -> None:
        super().__init__(StoreSettings(endpoints=(endpoint,)), total_timeout_s=PATIENCE_S)
        self._counts = counts

    async def commit(self, change: Transaction) -> Outcome:
        self._counts[f"{change.name} sent"] += 1
        outcome = await super().commit(change)
        if not isinstance(outcome, Committed):
            self._counts[f"{change.name} lost"] += 1
        elif change.name == "claim":
            self._counts["claimed"] += sum("/claims/" in effect.key for effect in change.effects)
        return outcome


class Bare(Followed):
    """A watch stream that is read and forgotten."""

    def __init__(self, endpoint: str, prefixes: tuple[str, ...]) -> None:
        super().__init__()
        self._prefixes = prefixes
        self._channel = grpc.aio.insecure_channel(endpoint.removeprefix("http://"), options=OPTIONS)

    async def run(self) -> None:
        call = rpc.WatchStub(self._channel).Watch()
        for prefix in self._prefixes:
            create = rpc.WatchCreateRequest(key=key_of(prefix), range_end=prefix_end(prefix), fragment=True)
            await call.write(rpc.WatchRequest(create_request=create))
        for _ in self._prefixes:
            await call.read()
        self.opened.set()
        while (response := await call.read()) is not grpc.aio.EOF:
            self.came(response.events[-1].kv.mod_revision if response.events else self.revision)


class Worker:
    """What one process hosts."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._group: asyncio.TaskGroup
        self._counts: Counter[str] = Counter()
        self._agents: list[Agent] = []
        self._bare: list[Bare | Wire] = []
        self._pool = MemoryPool(images={load.IMAGE_UUID: 1 << 30})
        self._held = asyncio.Event()
        self._profile = cProfile.Profile(time.process_time)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 24)
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        async with asyncio.TaskGroup() as self._group:
            while line := await reader.readline():
                asked = json.loads(line)
                answer = await getattr(self, "do_" + asked.pop("do"))(**asked)
                sys.stdout.write(json.dumps(answer) + "\n")
                sys.stdout.flush()
            os._exit(0)  # whatever still runs has nothing to lose

    # --- agents

    async def do_agents(
        self, first: int, count: int, endpoint: str, most: int, boot_s: float
    ) -> dict[str, Any]:
        """Start agents, one after another. ``most``: claims in one transaction; ``boot_s`` < 0: none boots."""
        patient()
        agent_claims.CLAIMS_PER_TRANSACTION = most  # type: ignore[misc]
        for n in range(first, first + count):
            agent = self._agent(n, endpoint, boot_s)
            self._agents.append(agent)
            # Its first look at everything would come after the default 30 s otherwise.
            entry = await agent.node.store.get(load.KEYS.cluster())
            assert entry is not None
            agent.node.world.apply(Batch(0, (KeyEvent(entry.key, entry.mod_revision, entry),)))
            self._group.create_task(agent.run(asyncio.Event()))
            while not agent.node.session.ready:  # noqa: ASYNC110 - nothing else tells
                await asyncio.sleep(0.01)
        garbage.freeze_startup_objects()  # as agent/main does
        return {"pid": os.getpid()}

    async def do_most(self, most: int) -> dict[str, Any]:
        agent_claims.CLAIMS_PER_TRANSACTION = most  # type: ignore[misc]
        return {}

    def _agent(self, n: int, endpoint: str, boot_s: float) -> Agent:
        name, address = load.node(n), f"10.8.{n >> 8}.{n & 255}"
        state_files = StateFiles(self._folder / name)
        state_files.lock()
        state_files.node_uuid(f"uuid-of-{name}")
        hypervisor = MemoryHypervisor(uuid=f"0-{n}", capacity=load.ROOM, boot_s=max(0.0, boot_s))
        if boot_s < 0:
            hypervisor.disk_opens = self._never
        return Agent(
            name=name, keys=load.KEYS, store=CountingStore(endpoint, self._counts),
            storage=MemoryStorage(self._pool, address), hypervisor=hypervisor, network=MemoryNetwork(),
            state_files=state_files, clock=Clock(), addresses=(address,), address=address,
        )  # fmt: skip

    async def _never(self, spec: DomainSpec) -> None:
        await self._held.wait()

    # --- bare streams, and raw writers

    async def do_bare(self, count: int, endpoint: str, prefixes: list[str]) -> dict[str, Any]:
        for _ in range(count):
            self._bare.append(bare := Bare(endpoint, tuple(prefixes)))
            self._group.create_task(bare.run())
            await bare.opened.wait()
        return {"pid": os.getpid()}

    async def do_wires(self, count: int, endpoint: str, prefixes: list[str], sampled: int) -> dict[str, Any]:
        """Cheap streams; the arrivals of some are kept."""
        every = max(1, count // sampled)
        for n in range(count):
            self._bare.append(await Wire.open(endpoint, tuple(prefixes), keep=n % every == 0))
        return {"pid": os.getpid()}

    async def do_arrivals(self) -> dict[str, Any]:
        """What came when since the last time."""
        found: list[tuple[int, float]] = []
        for wire in self._bare:
            if isinstance(wire, Wire) and wire.arrivals is not None:
                found += wire.arrivals
                wire.arrivals = []
        return {"arrivals": found}

    async def do_claim(
        self, numbers: list[int], nodes: list[list[Any]], batch: int, endpoint: str
    ) -> dict[str, Any]:
        """Wish and claim these VMs as fast as it goes; the last revision."""
        channel = grpc.aio.insecure_channel(endpoint.removeprefix("http://"), options=OPTIONS)
        txn = rpc.KVStub(channel).Txn
        mes = [OwnSession(node=name, session=session, lease=lease) for name, session, lease in nodes]
        chunks = iter([numbers[at : at + load.AT_ONCE] for at in range(0, len(numbers), load.AT_ONCE)])
        last = 0

        async def send(change: Transaction) -> int:
            nonlocal last
            answer = await txn(txn_of(change))
            if not answer.succeeded:
                raise RuntimeError(f"{change.name}: a compare failed")
            last = max(last, answer.header.revision)
            return int(answer.header.revision)

        async def work() -> None:
            for chunk in chunks:
                revision = await send(load.wishes(chunk)[0])
                # Who claims together is one node, as with agents.
                me = mes[chunk[0] // load.AT_ONCE % len(mes)]
                parts = [load.claim(n, me, revision) for n in chunk]
                sent = [merged(parts[at : at + batch]) for at in range(0, len(parts), batch)]
                await asyncio.gather(*map(send, sent))

        await asyncio.gather(*(work() for _ in range(CHUNKS)))
        await channel.close()
        return {"revision": last}

    # --- what is asked of both

    async def do_reached(self, revision: int) -> dict[str, Any]:
        """When the last of them has been delivered that revision, on the clock that processes share."""
        for agent in self._agents:
            await agent.node.informer.reached(revision)
        for bare in self._bare:
            await bare.reached(revision)
        return {"at_s": time.monotonic(), "streams": len(self._bare)}

    async def do_profile(self, path: str = "") -> dict[str, Any]:
        """Profile this process from now on; with a path: write down what was seen."""
        if path:
            self._profile.disable()
            self._profile.dump_stats(path)
        else:
            self._profile.enable()
        return {}

    async def do_tell(self) -> dict[str, Any]:
        """Counts since the last time; CPU and memory so far."""
        told, self._counts = dict(self._counts), Counter()
        for agent in self._agents:
            agent.node.store._counts = self._counts  # type: ignore[attr-defined]
        messages = sum(bare.messages for bare in self._bare)
        for bare in self._bare:
            bare.messages = 0
        lag_ms = max((agent.node.lag._reported_ms for agent in self._agents), default=0)
        used = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "counts": told, "cpu_s": time.process_time(), "messages": messages, "lag_ms": lag_ms,
            "max_rss_kib": used.ru_maxrss,
        }  # fmt: skip


def main() -> None:
    folder = Path(sys.argv[1])
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    structlog.configure(
        processors=[structlog.processors.add_log_level, structlog.processors.JSONRenderer()],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        wrapper_class=structlog.make_filtering_bound_logger(int(os.environ.get("METASTACK_BENCH_LOG", "20"))),
        cache_logger_on_first_use=True,
    )
    garbage.collect_rarely()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:  # as in agent/main
        runner.run(Worker(folder).run())


if __name__ == "__main__":
    main()
