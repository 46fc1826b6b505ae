"""Fixtures: a store of each kind, and folders for real members."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from store_backends import Backend, EtcdBackend, MemoryBackend

from metastack.lab.dev.etcd import EtcdCluster
from metastack.ports import Store


@pytest.fixture(scope="session")
def one_etcd() -> Iterator[EtcdCluster]:
    """One member for all tests that break nothing."""
    folder = Path(tempfile.mkdtemp(prefix="ms-etcd-", dir="/tmp"))
    cluster = EtcdCluster.local(folder)
    asyncio.run(cluster.start())
    yield cluster
    asyncio.run(cluster.kill())
    shutil.rmtree(folder)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets."""
    path = Path(tempfile.mkdtemp(prefix="ms-etcd-", dir="/tmp"))
    yield path
    shutil.rmtree(path)


@pytest.fixture(params=[pytest.param("etcd", marks=pytest.mark.etcd), "memory"])
def made(request: pytest.FixtureRequest) -> EtcdBackend | MemoryBackend:
    # Not asynchronous: the member starts on a loop of its own.
    return MemoryBackend() if request.param == "memory" else EtcdBackend(request.getfixturevalue("one_etcd"))


@pytest.fixture
async def backend(made: EtcdBackend | MemoryBackend) -> AsyncIterator[Backend]:
    yield made
    for store in made.stores:
        await store.close()
    if isinstance(made, MemoryBackend):
        made.cluster.stop()


@pytest.fixture
def store(backend: Backend) -> Store:
    return backend.store()
