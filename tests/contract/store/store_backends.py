"""The two stores behind one face: a real etcd, and the twin in memory."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from typing import Protocol

from metastack.core.transaction import Lease
from metastack.lab.dev.etcd import EtcdCluster
from metastack.ports import Store
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore
from metastack.store.twin.cluster import MemoryCluster
from metastack.store.twin.store import MemoryStore

ROOTS = itertools.count()


class Backend(Protocol):
    """What the suite needs beyond the port."""

    root: str
    """Of this test alone."""

    def store(self) -> Store:
        """A client of its own; closed at the end of the test."""
        ...

    async def compact(self, revision: int) -> None: ...

    async def revoke_behind_its_back(self, lease: Lease) -> None: ...


class EtcdBackend:
    def __init__(self, cluster: EtcdCluster) -> None:
        self.root = f"/t{next(ROOTS)}/"
        self._cluster = cluster
        self.stores: list[Store] = []

    def store(self) -> Store:
        self.stores.append(EtcdStore(StoreSettings(endpoints=self._cluster.endpoints)))
        return self.stores[-1]

    async def compact(self, revision: int) -> None:
        await asyncio.to_thread(etcdctl, self._cluster, "compact", "--physical", str(revision))

    async def revoke_behind_its_back(self, lease: Lease) -> None:
        await asyncio.to_thread(etcdctl, self._cluster, "lease", "revoke", f"{lease.id:x}")


class MemoryBackend:
    def __init__(self) -> None:
        self.root = f"/t{next(ROOTS)}/"
        self.cluster = MemoryCluster()
        self.stores: list[Store] = []

    def store(self) -> Store:
        self.stores.append(MemoryStore(self.cluster))
        return self.stores[-1]

    async def compact(self, revision: int) -> None:
        self.cluster.compact(revision)

    async def revoke_behind_its_back(self, lease: Lease) -> None:
        self.cluster.revoke(lease.id)


def etcdctl(cluster: EtcdCluster, *args: str) -> str:
    """Debian's own client: an eye apart from the code under test."""
    command = ["etcdctl", f"--endpoints={','.join(cluster.endpoints)}", *args]
    done = subprocess.run(
        command,
        env={"ETCDCTL_API": "3", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout
