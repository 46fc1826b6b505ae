"""A rig on each kind of store."""

from __future__ import annotations

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from command_rights import CommandRights
from commands_rig import Rig
from joining_house import House, now

from metastack.commands.request import Cluster
from metastack.core.model import ClusterConfig
from metastack.core.state.keys import Keys
from metastack.core.state.record_versions import LEVEL
from metastack.lab.dev.etcd import EtcdCluster
from metastack.pki.folder import CaFolder
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore
from metastack.store.twin.cluster import MemoryCluster

_roots = itertools.count()


@pytest.fixture(scope="session")
def commands_etcd() -> Iterator[EtcdCluster]:
    folder = Path(tempfile.mkdtemp(prefix="ms-cmd-", dir="/tmp"))
    cluster = EtcdCluster.local(folder)
    asyncio.run(cluster.start())
    yield cluster
    asyncio.run(cluster.kill())
    shutil.rmtree(folder)


@pytest.fixture(params=[pytest.param("etcd", marks=pytest.mark.etcd), "memory"])
def kind(request: pytest.FixtureRequest) -> EtcdCluster | None:
    # Not asynchronous: the member starts on a loop of its own.
    return request.getfixturevalue("commands_etcd") if request.param == "etcd" else None


async def _new(rig: Rig) -> Rig:
    """It writes today's records from its first day, as `metastack dev up` has it."""
    await rig.put(rig.keys.cluster(), ClusterConfig(record_version=LEVEL))
    return rig


@pytest.fixture
async def rig(kind: EtcdCluster | None) -> AsyncIterator[Rig]:
    """An empty cluster."""
    keys = Keys(f"/t{next(_roots)}")
    if kind is None:
        memory = MemoryCluster()
        twin = CommandRights(memory, keys)
        yield await _new(Rig(Cluster(twin, keys)))
        await twin.close()
        memory.stop()
    else:
        store = EtcdStore(StoreSettings(endpoints=kind.endpoints))
        yield await _new(Rig(Cluster(store, keys)))
        await store.close()


@pytest.fixture
def house(rig: Rig, tmp_path: Path) -> House:
    return House(rig, CaFolder.make(tmp_path / "ca", "prod", now))
