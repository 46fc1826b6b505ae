"""A snapshot of a real etcd: whole, of everything committed before, and never half of one unnoticed."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from metastack.core.transaction import Put, Transaction
from metastack.lab.dev.etcd import EtcdCluster
from metastack.ports import Unavailable
from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore

pytestmark = pytest.mark.etcd
LARGE_BYTES = 1 << 20


@asynccontextmanager
async def running(folder: Path, size: int = 1) -> AsyncIterator[tuple[EtcdCluster, EtcdStore]]:
    cluster = EtcdCluster.local(folder, size)
    await cluster.start()
    store = EtcdStore(StoreSettings(endpoints=cluster.endpoints))
    try:
        yield cluster, store
    finally:
        await store.close()
        await cluster.kill()


async def put(store: EtcdStore, key: str, value: bytes) -> None:
    await store.commit(Transaction(name="test", guards=(), effects=(Put(key, value),)))


async def whole(store: EtcdStore, hurt: Callable[[], Awaitable[None]] | None = None) -> bytes:
    """All of it; after the first part somebody may hurt its member."""
    parts, left = [], []
    async with asyncio.timeout(30), aclosing(store.snapshot()) as stream:
        async for data, left_bytes in stream:
            parts.append(data)
            left.append(left_bytes)
            if hurt is not None and len(parts) == 1:
                await hurt()
    assert left == sorted(left, reverse=True) and left[-1] == 0
    return b"".join(parts)


async def fill(store: EtcdStore) -> None:
    """More than what lies in buffers on the way."""
    for number in range(16):
        await put(store, f"/m/{number}", bytes([number]) * LARGE_BYTES)


async def test_it_ends_with_its_checksum_and_has_the_last_write(tmp_path: Path) -> None:
    async with running(tmp_path, 3) as (cluster, store):
        for number in range(20):
            word = f"written-{number}-".encode()
            await put(store, f"/m/{number}", word)
            data = await whole(store)
            assert hashlib.sha256(data[:-32]).digest() == data[-32:]
            assert word in data
        # A member that is down costs another's turn, not the backup.
        await cluster.members[0].kill()
        assert word in await whole(store)


async def test_a_member_that_dies_midway_is_an_error(tmp_path: Path) -> None:
    async with running(tmp_path) as (cluster, store):
        await fill(store)
        with pytest.raises(Unavailable, match="snapshot: "):
            await whole(store, cluster.kill)


async def test_a_member_that_hangs_midway_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metastack.store.etcd.store.PART_S", 1.0)
    async with running(tmp_path) as (cluster, store):
        await fill(store)
        with pytest.raises(Unavailable, match="snapshot: nothing came for 1 s"):
            await whole(store, lambda: asyncio.to_thread(cluster.members[0].freeze))


async def test_keys_are_counted_at_one_revision(tmp_path: Path) -> None:
    async with running(tmp_path) as (_, store):
        for key in ("/m/a/1", "/m/a/2", "/m/b"):
            await put(store, key, b"v")
        assert await store.count("/m/a/", "/m/b", "/m/c/") == (4, (2, 1, 0))
