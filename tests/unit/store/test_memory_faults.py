"""The twin's faults: what a simulator can do to a client."""

from __future__ import annotations

import asyncio

import pytest

from metastack.core.transaction import Committed, Guard, Put, Transaction
from metastack.ports import Compacted, LeaseGone, NoSpace, Unavailable, UnknownOutcome
from metastack.store.twin.cluster import MemoryCluster
from metastack.store.twin.store import MemoryStore


def write(key: str, guards: tuple[Guard, ...] = (), lease: int = 0) -> Transaction:
    return Transaction(name="test", guards=guards, effects=(Put(key, b"v", leased=bool(lease)),), lease=lease)


async def test_a_lost_reply_is_unknown_and_applied() -> None:
    cluster = MemoryCluster()
    store = MemoryStore(cluster)
    store.lose_next_reply()
    with pytest.raises(UnknownOutcome):
        await store.commit(write("/k"))
    assert await store.get("/k") is not None


async def test_a_lost_request_is_unknown_and_not_applied() -> None:
    store = MemoryStore(MemoryCluster(), total_timeout_s=0.02)
    store.lose_next_commit()
    with pytest.raises(UnknownOutcome):
        await store.commit(write("/k"))
    assert await store.get("/k") is None


async def test_a_late_commit_lands_after_its_caller_gave_up() -> None:
    store = MemoryStore(MemoryCluster())
    store.delay_next_commit(0.05)
    with pytest.raises(UnknownOutcome):
        await store.commit(write("/k"))
    assert await store.get("/k") is None
    batch = await asyncio.wait_for(anext(aiter(store.watch("/", 0))), 10)
    assert [e.key for e in batch.events] == ["/k"]


async def test_a_partition_cuts_one_client_only() -> None:
    cluster = MemoryCluster()
    cut, whole = MemoryStore(cluster, total_timeout_s=0.05), MemoryStore(cluster)
    watch = aiter(cut.watch("/", 0))
    cut.partition()
    with pytest.raises(UnknownOutcome):
        await cut.commit(write("/cut"))
    with pytest.raises(Unavailable):
        await cut.get("/k")
    assert isinstance(await whole.commit(write("/k")), Committed)
    waiting = asyncio.ensure_future(anext(watch))
    done, _ = await asyncio.wait({waiting}, timeout=0.02)
    assert not done
    cut.heal()
    assert [e.key for e in (await asyncio.wait_for(waiting, 10)).events] == ["/k"]


async def test_a_partition_that_heals_in_time_is_not_noticed() -> None:
    cluster = MemoryCluster()
    store = MemoryStore(cluster)
    store.partition()
    committing = asyncio.ensure_future(store.commit(write("/k")))
    await asyncio.sleep(0.02)
    store.heal()
    assert isinstance(await asyncio.wait_for(committing, 10), Committed)


async def test_a_deaf_client_writes_and_hears_later() -> None:
    store = MemoryStore(MemoryCluster())
    store.deafen()
    waiting = asyncio.ensure_future(anext(aiter(store.watch("/", 0))))
    await store.commit(write("/k"))
    done, _ = await asyncio.wait({waiting}, timeout=0.02)
    assert not done
    store.heal()
    assert len((await asyncio.wait_for(waiting, 10)).events) == 1


async def test_an_outage_ends_no_lease() -> None:
    cluster = MemoryCluster(expiry_delay_s=0.0)
    store = MemoryStore(cluster, total_timeout_s=0.05)
    lease = await store.grant(1)
    await store.commit(write("/k", lease=lease.id))
    cluster.outage()
    with pytest.raises(Unavailable) as caught:
        await store.commit(write("/never"))
    assert caught.type is Unavailable
    await asyncio.sleep(1.1)
    cluster.recover()
    assert await store.get("/k") is not None
    assert await store.get("/never") is None
    cluster.stop()


async def test_a_lease_revoked_falsely_and_renewals_that_lie() -> None:
    cluster = MemoryCluster()
    store = MemoryStore(cluster)
    lease = await store.grant(5)
    await store.commit(write("/k", lease=lease.id))
    cluster.revoke(lease.id)
    assert await store.get("/k") is None
    cluster.renewals_lie = True
    await store.renew(lease)
    cluster.renewals_lie = False
    with pytest.raises(LeaseGone):
        await store.renew(lease)
    cluster.stop()


async def test_a_full_store() -> None:
    cluster = MemoryCluster()
    cluster.full = True
    with pytest.raises(NoSpace):
        await MemoryStore(cluster).commit(write("/k"))


@pytest.mark.parametrize("same_id", [False, True])
async def test_a_restored_cluster_is_another_one_or_went_back(same_id: bool) -> None:
    cluster = MemoryCluster()
    store = MemoryStore(cluster)
    lease = await store.grant(5)
    await store.commit(write("/leased", lease=lease.id))
    first = await store.commit(write("/k"))
    backup = cluster.backup()
    await store.commit(write("/k"))
    before = await store.list("/")
    watch = aiter(store.watch("/", before.revision))
    waiting = asyncio.ensure_future(anext(watch))
    await asyncio.sleep(0)
    cluster.restore(backup, before.cluster_id if same_id else None)
    with pytest.raises(Compacted):
        await asyncio.wait_for(waiting, 10)
    after = await store.list("/")
    assert (after.cluster_id == before.cluster_id) is same_id
    assert after.revision == first.revision < before.revision
    assert {e.key: e.mod_revision for e in after.entries}["/k"] == first.revision
    with pytest.raises(Compacted):
        await anext(aiter(store.watch("/", 0)))
    cluster.revoke(lease.id)
    assert await store.get("/leased") is None
    cluster.stop()
