"""A few agents on in-memory twins and a virtual clock: the agent's own code, in milliseconds."""

from __future__ import annotations

import asyncio
import itertools
import zlib
from collections.abc import Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

from metastack.agent.agent import Agent
from metastack.agent.clock import Clock
from metastack.agent.session.state_files import StateFiles
from metastack.core.model import ClusterConfig, Nic, Placement, Power, StorageIdentity, VmId, VmSpec
from metastack.core.state.codec import encode
from metastack.core.state.keys import DEFAULT_ROOT, Keys
from metastack.core.state.record_versions import LEVEL
from metastack.core.transaction import Delete, Put, Transaction
from metastack.hypervisor.twin.hypervisor import MemoryHypervisor
from metastack.network.twin import MemoryNetwork
from metastack.ports import CephSecret
from metastack.storage.twin import PLACE, MemoryPool, MemoryStorage
from metastack.store.twin.cluster import MemoryCluster
from metastack.store.twin.store import MemoryStore

KEYS = Keys(DEFAULT_ROOT)
IMAGE = "11111111-0000-4000-8000-000000000000"
CLUSTER = "cccccccc-0000-4000-8000-000000000000"
STORAGE = StorageIdentity(
    kind=PLACE.kind, fsid=PLACE.fsid, pool=PLACE.pool, pool_id=PLACE.pool_id, cluster_id=CLUSTER
)


class Host:
    """A machine: what outlives its agent, and its agent."""

    settings: ClassVar[dict[str, Any]] = {}
    """More of every agent's."""
    libvirt_secret: ClassVar[CephSecret | None] = None
    """What the storage says that guests need."""

    def __init__(self, lab: Lab, name: str, number: int) -> None:
        self.lab, self.name = lab, name
        self.address = f"10.0.0.{number}"
        self.hypervisor = MemoryHypervisor(
            uuid=f"00000000-0000-4000-8000-{number:012d}", call_s=0.002, boot_s=0.05, graceful_s=1.0,
            locks=lab.pool.locks,
        )  # fmt: skip
        self.folder = lab.folder / name
        self.store: MemoryStore | None = None
        self.agent: Agent | None = None
        self._task: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()

    def start(self) -> None:
        """Start the agent."""
        self.store = MemoryStore(self.lab.cluster)
        state_files = StateFiles(self.folder)
        state_files.lock()
        state_files.node_uuid(f"uuid-of-{self.name}")
        ids = itertools.count()
        storage = MemoryStorage(self.lab.pool, self.address, remote_fence=self.lab.remote_fence)
        storage.secret = storage.keyring = self.libvirt_secret
        self.agent = Agent(
            name=self.name, keys=KEYS, store=self.store, storage=storage, **self.settings,
            hypervisor=self.hypervisor, network=MemoryNetwork(), state_files=state_files,
            clock=Clock(lambda: 1e9 + asyncio.get_running_loop().time(),
                        lambda: f"{self.name}{next(ids):08d}ffffffff"),
            addresses=(self.address,) if self.lab.remote_fence else (), address=self.address,
        )  # fmt: skip
        self._stop = asyncio.Event()
        self._task = self.lab.group.create_task(self.agent.run(self._stop))

    async def stop(self) -> None:
        """Stop the agent gracefully."""
        assert self._task is not None and self.agent is not None
        self._stop.set()
        await self._task
        self.agent.state_files.unlock()

    async def crash(self) -> None:
        """SIGKILL the agent; its guests and what is queued in the hypervisor stay."""
        assert self._task is not None and self.agent is not None
        self._task.cancel()
        await asyncio.wait([self._task])
        self.agent.state_files.unlock()

    async def power_cut(self) -> None:
        """Everything on the machine ends at once."""
        await self.crash()
        self.hypervisor.power_cut()
        self.hypervisor.daemon_returns()

    def running(self) -> list[str]:
        """Names of the guests that run here."""
        return sorted(f"{d.project}/{d.name}" for d in self.hypervisor.active())


class Lab:
    """A cluster in memory."""

    def __init__(self, folder: Path, nodes: int, remote_fence: bool) -> None:
        self.folder, self.remote_fence = folder, remote_fence
        self.cluster = MemoryCluster()
        # A new cluster: it writes today's records from its first day.
        newest = encode(ClusterConfig(record_version=LEVEL))
        self.cluster.apply(Transaction(name="test", guards=(), effects=(Put(KEYS.cluster(), newest),)))
        self.pool = MemoryPool(images={IMAGE: 512})
        self.group: asyncio.TaskGroup
        self.client = MemoryStore(self.cluster)
        self.cluster.apply(Transaction(name="test", guards=(), effects=(Put(KEYS.storage(), encode(STORAGE)),)))
        self.hosts = {f"n{i}": Host(self, f"n{i}", i) for i in range(1, nodes + 1)}

    async def put(self, key: str, value: bytes) -> None:
        await self.client.commit(Transaction(name="test", guards=(), effects=(Put(key, value),)))

    async def delete(self, key: str) -> None:
        await self.client.commit(Transaction(name="test", guards=(), effects=(Delete(key),)))

    async def want(self, name: str, **more: object) -> VmSpec:
        """Write a spec."""
        spec = vm_spec(name, **more)
        await self.put(KEYS.vm_spec(spec.id), encode(spec))
        return spec

    async def until(self, what: str, check: Callable[[], object], within_s: float = 60.0) -> float:
        """Wait for a condition in virtual time; the time it took. Fails with what is running where."""
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        while not check():
            if loop.time() - start_s > within_s:
                where = {name: host.running() for name, host in self.hosts.items()}
                keys = {e.key: e.value.decode() for e in self.cluster.under("/metastack/")}
                lines = "\n".join(f"  {k} {v}" for k, v in keys.items() if "/events/" not in k)
                raise AssertionError(f"not within {within_s} s: {what}\nrunning: {where}\n{lines}")
            await asyncio.sleep(0.01)
        return loop.time() - start_s

    def where(self, name: str) -> str:
        """The node on which a VM runs; empty when nowhere. Two at once is the failure this project is about."""
        found = [host.name for host in self.hosts.values() if f"default/{name}" in host.running()]
        assert len(found) <= 1, f"{name} runs on {found}"
        return found[0] if found else ""

    def entry(self, key: str) -> bytes | None:
        found = self.cluster.get(key)
        return found.value if found is not None else None

    async def all_ready(self) -> None:
        """Every node registered and ready."""
        await self.until(
            "all nodes ready",
            lambda: all(h.agent is not None and h.agent.node.session.ready for h in self.hosts.values()),
        )


def vm_spec(name: str, **more: object) -> VmSpec:
    number = zlib.crc32(name.encode()) % 100_000_000
    fields: dict[str, object] = {
        "project": "default", "name": name,
        "uuid": f"{number:08d}-0000-4000-8000-00000000000a",
        "image": "debian", "image_uuid": IMAGE, "volume_uuid": f"{number:08d}-0000-4000-8000-00000000000b",
        "cpus": 1, "memory_mib": 512, "disk_bytes": 1 << 20, "power": Power.ON,
        "nics": (Nic(bridge="br0", mac="52:54:00:00:00:01"),), "placement": Placement(),
    }  # fmt: skip
    return VmSpec(**{**fields, **more})  # type: ignore[arg-type]


def vm(name: str) -> VmId:
    return VmId("default", name)


@asynccontextmanager
async def lab_of(folder: Path, nodes: int = 3, remote_fence: bool = True):
    """A lab whose agents are started, and stopped at the end."""
    lab = Lab(folder, nodes, remote_fence)
    try:
        async with asyncio.TaskGroup() as group:
            lab.group = group
            for host in lab.hosts.values():
                host.start()
            await lab.all_ready()
            yield lab
            for host in lab.hosts.values():
                if host._task is not None:
                    host._task.cancel()
    finally:
        for host in lab.hosts.values():
            if host.agent is not None:
                host.agent.state_files.unlock()
