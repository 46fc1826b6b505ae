"""Agents with certificates of their own on a secured etcd; machines and pool are twins."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from management_host import Host

from metastack.agent.agent import Agent
from metastack.agent.clock import Clock
from metastack.agent.session.state_files import StateFiles
from metastack.core.etcd_roles import node_role
from metastack.core.model import Image, ImageState
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Put, Transaction
from metastack.hypervisor.twin.hypervisor import MemoryHypervisor
from metastack.network.twin import MemoryNetwork
from metastack.pki.subject import SubjectKind, subject
from metastack.settings import StoreSettings
from metastack.storage.twin import MemoryPool, MemoryStorage
from metastack.store.etcd.store import EtcdStore

KEYS = Keys()
IMAGE = "11111111-0000-4000-8000-000000000000"
SOON_S = 30.0


class Node:
    """A compute node: its agent shows the node's certificate."""

    def __init__(self, host: Host, pool: MemoryPool, number: int, settings: StoreSettings) -> None:
        self.name, self.address, self.settings = f"n{number}", f"10.0.0.{number}", settings
        self.folder, self.pool = host.secured.folder / self.name, pool
        self.hypervisor = MemoryHypervisor(
            uuid=f"00000000-0000-4000-8000-{number:012d}", call_s=0.002, boot_s=0.05, locks=pool.locks
        )
        self.agent: Agent | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        files = StateFiles(self.folder)
        files.lock()
        files.node_uuid(f"uuid-of-{self.name}")
        ids = itertools.count()
        self.agent = Agent(
            name=self.name,
            keys=KEYS,
            store=EtcdStore(self.settings),
            storage=MemoryStorage(self.pool, self.address, remote_fence=True),
            hypervisor=self.hypervisor,
            network=MemoryNetwork(),
            state_files=files,
            clock=Clock(lambda: 1e9, lambda: f"{self.name}{os.urandom(3).hex()}{next(ids):06d}"),
            addresses=(self.address,),
            address=self.address,
        )
        self._task = group.create_task(self.agent.run(asyncio.Event()))

    async def power_cut(self) -> None:
        """The agent and its guests end at once."""
        if self._task is not None and self.agent is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
            self.agent.state_files.unlock()
            await self.agent.node.store.close()
        self.hypervisor.power_cut()
        self._task = None

    @property
    def ready(self) -> bool:
        return self.agent is not None and self.agent.node.session.ready

    def runs(self) -> list[str]:
        return sorted(domain.name for domain in self.hypervisor.active())


async def until(done: Callable[[], bool], what: str) -> None:
    async with asyncio.timeout(SOON_S):
        while not done():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert done(), what


@asynccontextmanager
async def nodes(cluster: Host, count: int = 3) -> AsyncIterator[list[Node]]:
    """Nodes that joined, on a cluster with an image ``tiny`` and a short lease."""
    subjects = [subject(SubjectKind.NODE, f"n{number}") for number in range(1, count + 1)]
    async with cluster.secured.users() as users:
        await users.apply([node_role(KEYS, one.name) for one in subjects])
    await cluster.secured.admit(*subjects)
    root = EtcdStore(cluster.secured.settings(cluster.secured.root))
    image = Image(name="tiny", uuid=IMAGE, state=ImageState.READY, size_bytes=1 << 20)
    put = Put(KEYS.image("tiny"), encode(image))
    await root.commit(Transaction(name="test", guards=(), effects=(put,)))
    await root.close()
    assert (await cluster.asks("lab", "config", "set", "lease_ttl_s=3", "full_look_s=5")).status == 0
    pool = MemoryPool(images={IMAGE: 1 << 20})
    made = [Node(cluster, pool, number, cluster.secured.settings(to)) for number, to in enumerate(subjects, 1)]
    async with asyncio.TaskGroup() as group:
        for node in made:
            node.start(group)
        try:
            await until(lambda: all(node.ready for node in made), "every node is ready")
            yield made
        finally:
            for node in made:
                await node.power_cut()
