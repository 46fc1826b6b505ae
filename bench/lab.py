"""A real one-machine cluster for benches, and what happens in its etcd with the time at which it was seen.

Owns: the cluster's life and the watching. Refuses: figures; those are the benches'.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from metastack.commands.image.import_ import import_image
from metastack.commands.request import Cluster as Person
from metastack.commands.request import new_request
from metastack.commands.vm.change import NewVm, create_vm, delete_vm
from metastack.core.model import VmId
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.keys import Keys
from metastack.core.transaction import KeyEvent
from metastack.lab.dev import guest
from metastack.lab.dev.cluster import Cluster
from metastack.store.etcd.store import EtcdStore

IMAGE = "tiny"


class Lab:
    """A cluster, a person's handle on it, and everything that etcd says, stamped with monotonic time."""

    def __init__(self, cluster: Cluster, store: EtcdStore, watcher: EtcdStore) -> None:
        self.cluster = cluster
        self.person = Person(store, Keys())
        self.world = ClusterState(Keys())
        self.log: list[tuple[float, KeyEvent]] = []
        self._store = watcher
        self._changed = asyncio.Event()

    async def follow(self) -> None:
        """Keep the world and the log; a task."""
        keys = self.person.keys
        snapshot = await self._store.list(keys.prefix())
        self.world.load(snapshot)
        self._changed.set()
        async for batch in self._store.watch(keys.prefix(), snapshot.revision):
            now_s = time.monotonic()
            self.log += [(now_s, event) for event in batch.events]
            self.world.apply(batch)
            self._changed.set()

    async def until(self, what: str, check: Callable[[], bool], timeout_s: float = 120.0) -> float:
        """Wait for the world to be so; the monotonic time at which it was seen."""
        try:
            async with asyncio.timeout(timeout_s):
                while not check():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise RuntimeError(f"not within {timeout_s} s: {what}\n{self.seen()}") from None
        return time.monotonic()

    def seen(self) -> str:
        """The last words of every agent."""
        parts = [f"revision {self.world.revision}, {len(self.log)} events"]
        for name, host in self.cluster.hosts.items():
            log = Path(host.agent_log)
            tail = log.read_text().splitlines()[-12:] if log.exists() else ["no log"]
            parts.append(f"--- {name}\n" + "\n".join(line[:300] for line in tail))
        return "\n".join(parts)

    async def all_ready(self) -> None:
        def ready() -> bool:
            found = [self.world.alive(name) for name in self.cluster.state.nodes]
            return all(one is not None and one.record is not None and one.record.ready for one in found)

        await self.until("all nodes ready", ready)

    async def create(self, name: str, *, node: str = "", memory_mib: int = 96, network: str = "none") -> VmId:
        vm = VmId("default", name)
        new = NewVm(vm=vm, image=IMAGE, memory_mib=memory_mib, node=node, network=network)
        await create_vm(self.person, new_request(), new)
        return vm

    def phase(self, vm: VmId) -> str:
        found = self.world.status(vm)
        return found.record.phase.value if found is not None and found.record is not None else ""

    def node(self, vm: VmId) -> str:
        found = self.world.claim(vm)
        return found.record.node if found is not None and found.record is not None else ""

    async def running(self, vm: VmId) -> float:
        return await self.until(f"{vm} running", lambda: self.phase(vm) == "running")

    async def delete(self, vm: VmId) -> None:
        """Delete and wait until claim and disk are gone."""
        await delete_vm(self.person, new_request(), vm)
        await self.until(
            f"{vm} gone",
            lambda: (
                self.world.claim(vm) is None
                and not any(v.record and v.record.vm == vm.name for _, v in self.world.volumes())
            ),
        )


@asynccontextmanager
async def lab(
    *,
    ttl_s: int = 5,
    storage: str = "ceph",
    nodes: int = 3,
    kind: type[Cluster] = Cluster,
    name: str = "b",
    secure: bool = False,
) -> AsyncIterator[Lab]:
    """A fresh cluster with an image; gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="msb", dir="/tmp"))
    kept = {key: os.environ.get(key) for key in ("METASTACK_DEV_STATE", "METASTACK_CONFIG")}
    os.environ["METASTACK_DEV_STATE"] = str(folder)
    os.environ["METASTACK_CONFIG"] = str(folder / "config.toml")
    cluster = kind(name)
    try:
        await asyncio.to_thread(cluster.up, nodes, 1, storage, ttl_s, secure)
        cache = Path(tempfile.gettempdir()) / "metastack-guest"
        cache.mkdir(exist_ok=True)
        image = await asyncio.to_thread(guest.image, cache)
        # With rights, a person may not watch everything at once.
        store, watcher = EtcdStore(cluster.store_settings), EtcdStore(cluster.root_store_settings)
        try:
            await _import(cluster, store, image)
            made = Lab(cluster, store, watcher)
            async with asyncio.TaskGroup() as group:
                follower = group.create_task(made.follow())
                await made.all_ready()
                yield made
                follower.cancel()
        finally:
            await store.close()
            await watcher.close()
    finally:
        await asyncio.to_thread(cluster.down)
        shutil.rmtree(folder, ignore_errors=True)
        for key, value in kept.items():
            if value is None:
                os.environ.pop(key, None)
            else:
                os.environ[key] = value


async def _import(cluster: Cluster, store: EtcdStore, image: Path) -> None:
    from metastack.lab.netns import inside
    from metastack.storage.choose import build

    netns = str(cluster.layout.fabric) if cluster.fabric else ""
    with inside(netns):
        storage = build(cluster.storage_settings())
        await storage.open()
        try:
            await import_image(Person(store, Keys()), storage, new_request(), IMAGE, str(image))
        finally:
            await storage.close()
