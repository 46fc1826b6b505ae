"""A store of each kind for schedulers, and the hands of agents."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "commands"))

from commands_rig import Rig
from scheduler_rig import Backend

from metastack.commands.request import Cluster
from metastack.core.state.keys import Keys
from metastack.lab.dev.etcd import EtcdCluster
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore
from metastack.store.twin.cluster import MemoryCluster
from metastack.store.twin.store import MemoryStore

_roots = itertools.count()


@pytest.fixture(scope="session")
def scheduler_etcd() -> Iterator[EtcdCluster]:
    folder = Path(tempfile.mkdtemp(prefix="ms-sch-", dir="/tmp"))
    cluster = EtcdCluster.local(folder)
    asyncio.run(cluster.start())
    yield cluster
    asyncio.run(cluster.kill())
    shutil.rmtree(folder)


@pytest.fixture(params=[pytest.param("etcd", marks=pytest.mark.etcd), "memory"])
def etcd(request: pytest.FixtureRequest) -> EtcdCluster | None:
    # Not asynchronous: the member starts on a loop of its own.
    return request.getfixturevalue("scheduler_etcd") if request.param == "etcd" else None


@pytest.fixture
async def backend(etcd: EtcdCluster | None) -> AsyncIterator[Backend]:
    """An empty cluster, and as many clients of it as are wanted."""
    keys = Keys(f"/s{next(_roots)}")
    memory = MemoryCluster()

    def client() -> MemoryStore | EtcdStore:
        if etcd is None:
            return MemoryStore(memory)
        return EtcdStore(StoreSettings(endpoints=etcd.endpoints))

    made = Backend(keys, client)
    made.rig = Rig(Cluster(made.client(), keys))
    yield made
    for store in made.stores:
        await store.close()
    memory.stop()
