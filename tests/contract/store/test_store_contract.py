"""What every store keeps: the same tests against a real etcd and against its twin in memory."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator

import pytest
from store_backends import Backend

from metastack.core.transaction import (
    Batch,
    Committed,
    Delete,
    Entry,
    Guard,
    KeyEvent,
    Lost,
    Outcome,
    Put,
    Transaction,
)
from metastack.ports import Broken, Compacted, LeaseGone, Store, Unavailable

SOON_S = 20.0


def change(*effects: Put | Delete, guards: tuple[Guard, ...] = (), lease: int = 0) -> Transaction:
    return Transaction(name="test", guards=guards, effects=effects, lease=lease)


async def put(store: Store, key: str, value: bytes = b"v") -> int:
    outcome = await store.commit(change(Put(key, value)))
    assert isinstance(outcome, Committed)
    return outcome.revision


async def events(watch: AsyncIterator[Batch], count: int) -> list[KeyEvent]:
    """The next ``count`` events; progress notes do not count."""
    seen: list[KeyEvent] = []
    try:
        async with asyncio.timeout(SOON_S):
            while len(seen) < count:
                batch = await anext(watch)
                assert all(e.revision <= batch.revision for e in batch.events)
                seen.extend(batch.events)
    except TimeoutError:
        pytest.fail(f"{len(seen)} of {count} events: {seen}")
    return seen


async def until_absent(store: Store, key: str) -> float:
    """Seconds until the key is gone."""
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    while await store.get(key) is not None:
        assert loop.time() < begun_s + SOON_S, f"{key} is still there"
        await asyncio.sleep(0.02)
    return loop.time() - begun_s


# --- reads


async def test_get_and_the_life_of_an_entry(backend: Backend, store: Store) -> None:
    key = backend.root + "k"
    assert await store.get(key) is None
    first = await put(store, key, b"one")
    assert await store.get(key) == Entry(key, b"one", first, first, 1)
    second = await put(store, key, b"\x00\xff")
    assert second > first
    assert await store.get(key) == Entry(key, b"\x00\xff", first, second, 2)
    await store.commit(change(Delete(key)))
    third = await put(store, key, b"anew")
    assert await store.get(key) == Entry(key, b"anew", third, third, 1)


async def test_list_knows_where_a_prefix_ends(backend: Backend, store: Store) -> None:
    root = backend.root
    for name in ("b/2", "b/1", "b", "b0", "a/1", "b/\u00e9", "c/1"):
        await put(store, root + name)
    snapshot = await store.list(root + "b/")
    assert [e.key for e in snapshot.entries] == [root + "b/1", root + "b/2", root + "b/\u00e9"]
    both = await store.list(root + "c/", root + "a/")
    assert [e.key for e in both.entries] == [root + "c/1", root + "a/1"]
    assert both.revision == snapshot.revision
    assert (await store.list(root + "none/")).entries == ()


async def test_a_long_list_is_of_one_revision(backend: Backend, store: Store) -> None:
    keys = [f"{backend.root}{n:05}" for n in range(4300)]
    for start in range(0, len(keys), 128):
        await store.commit(change(*(Put(key, b"0") for key in keys[start : start + 128])))
    stop = asyncio.Event()

    async def disturb() -> None:
        # Both ends in one transaction: a list of two revisions would see them differ.
        other = backend.store()
        n = 0
        while not stop.is_set():
            n += 1
            await other.commit(change(Put(keys[0], b"%d" % n), Put(keys[-1], b"%d" % n)))

    async with asyncio.TaskGroup() as group:
        group.create_task(disturb())
        for _ in range(5):
            snapshot = await store.list(backend.root)
            assert [e.key for e in snapshot.entries] == keys
            assert snapshot.entries[0].value == snapshot.entries[-1].value
            assert max(e.mod_revision for e in snapshot.entries) <= snapshot.revision
        stop.set()


# --- transactions


@pytest.mark.parametrize(
    ("field", "of_present"),
    [("mod", "mod_revision"), ("create", "create_revision"), ("version", "version"), ("lease", "lease")],
)
async def test_guards(backend: Backend, store: Store, field: str, of_present: str) -> None:
    key, absent, target = (backend.root + name for name in ("k", "absent", "target"))
    lease = await store.grant(60)
    await put(store, key)
    await store.commit(change(Put(key, b"v", leased=True), lease=lease.id))
    entry = await store.get(key)
    assert entry is not None
    value = getattr(entry, of_present)

    async def holds(guard: Guard) -> bool:
        outcome = await store.commit(change(Put(target, b"x"), guards=(guard,)))
        return isinstance(outcome, Committed)

    assert await holds(Guard(key, field, value))  # type: ignore[arg-type]
    assert not await holds(Guard(key, field, value + 1))  # type: ignore[arg-type]
    assert not await holds(Guard(key, field, 0))  # type: ignore[arg-type]
    assert await holds(Guard(absent, field, 0))  # type: ignore[arg-type]
    assert not await holds(Guard(absent, field, value))  # type: ignore[arg-type]


async def test_a_lost_change_writes_nothing(backend: Backend, store: Store) -> None:
    key, other = backend.root + "k", backend.root + "other"
    revision = await put(store, key)
    guards = (Guard(key, "mod", revision), Guard(other, "mod", revision))
    lost = await store.commit(change(Put(other, b"x"), Delete(key), guards=guards))
    assert lost == Lost(revision, lost.cluster_id, lost.term)
    assert lost.term > 0
    assert (await store.list(backend.root)).revision == revision
    assert await store.get(other) is None


async def test_one_change_is_one_revision_and_one_batch(backend: Backend, store: Store) -> None:
    a, b, c = (backend.root + name for name in "abc")
    before = await put(store, c)
    outcome = await store.commit(change(Put(a, b"1"), Put(b, b"2"), Delete(c)))
    assert outcome == Committed(before + 1, outcome.cluster_id, outcome.term)
    assert outcome.term > 0
    watch = store.watch(backend.root, before)
    batch = await asyncio.wait_for(anext(watch), SOON_S)
    assert [(e.key, e.revision, e.entry is None) for e in batch.events] == [
        (a, before + 1, False),
        (b, before + 1, False),
        (c, before + 1, True),
    ]


async def test_deleting_nothing_makes_no_revision(backend: Backend, store: Store) -> None:
    before = await put(store, backend.root + "k")
    listed = await store.list(backend.root)
    nothing = Committed(before, listed.cluster_id, listed.term)
    assert await store.commit(change(Delete(backend.root + "absent"))) == nothing
    assert await store.commit(change()) == nothing


async def test_delete_range(backend: Backend, store: Store) -> None:
    for name in ("a", "b", "bb", "c"):
        await put(store, backend.root + name)
    await store.commit(change(Delete(backend.root + "b", backend.root + "c")))
    assert [e.key for e in (await store.list(backend.root)).entries] == [
        backend.root + "a",
        backend.root + "c",
    ]


async def test_what_etcd_would_refuse_is_our_bug(backend: Backend, store: Store) -> None:
    keys = [f"{backend.root}{n}" for n in range(129)]
    full = change(
        *(Put(key, b"") for key in keys[:128]), guards=tuple(Guard(key, "mod", 0) for key in keys[:128])
    )
    assert isinstance(await store.commit(full), Committed)
    for bad in (
        change(*(Put(key, b"") for key in keys)),
        change(guards=tuple(Guard(key, "mod", 0) for key in keys)),
        change(Put("", b"")),
        change(Put(keys[0], b"1"), Put(keys[0], b"2")),
        change(Put(keys[0], b"1"), Delete(keys[0])),
        change(Delete(keys[0], keys[2]), Put(keys[0], b"1")),
        change(Put(keys[0], b"1", leased=True)),
    ):
        with pytest.raises(Broken):
            await store.commit(bad)
    assert isinstance(await store.commit(change(Delete(keys[0]), Delete(keys[0], keys[1]))), Committed)


async def test_many_claim_and_one_wins(backend: Backend) -> None:
    key = backend.root + "claim"
    stores = [backend.store() for _ in range(8)]

    async def claim(n: int) -> Outcome:
        guards = (Guard(key, "mod", 0),)
        return await stores[n % 8].commit(change(Put(key, b"%d" % n), guards=guards))

    outcomes = await asyncio.gather(*(claim(n) for n in range(40)))
    winners = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, Committed)]
    assert len(winners) == 1
    entry = await stores[0].get(key)
    assert entry is not None
    assert entry.value == b"%d" % winners[0]


# --- leases


async def test_a_lease_ends_its_keys_at_one_revision(backend: Backend, store: Store) -> None:
    lease = await store.grant(60)
    keys = [backend.root + name for name in "abc"]
    await store.commit(change(*(Put(key, b"", leased=True) for key in keys), lease=lease.id))
    entry = await store.get(keys[0])
    assert entry is not None
    assert entry.lease == lease.id
    # Written again without the lease: it is not the lease's any more.
    kept = await put(store, keys[1])
    watch = store.watch(backend.root, kept)
    await store.revoke(lease)
    seen = await events(watch, 2)
    assert [(e.key, e.entry) for e in seen] == [(keys[0], None), (keys[2], None)]
    assert len({e.revision for e in seen}) == 1
    assert await store.get(keys[1]) is not None
    await store.revoke(lease)


async def test_a_watch_ends_before_a_key(backend: Backend, store: Store) -> None:
    root = backend.root
    start = await put(store, root + "a")
    watch = store.watch(root, start, until=root + "c/")
    for key in ("c/1", "c0", "d", "b"):
        await put(store, root + key)
    assert [e.key for e in await events(watch, 1)] == [root + "b"]


async def test_a_lease_that_is_gone(backend: Backend, store: Store) -> None:
    lease = await store.grant(60)
    await backend.revoke_behind_its_back(lease)
    key = backend.root + "k"
    with pytest.raises(LeaseGone):
        await store.renew(lease)
    leased = Put(key, b"", leased=True)
    with pytest.raises(LeaseGone):
        await store.commit(change(leased, lease=lease.id))
    # The guards are looked at first.
    outcome = await store.commit(change(leased, guards=(Guard(key, "mod", 1),), lease=lease.id))
    assert isinstance(outcome, Lost)
    assert await store.get(key) is None


async def test_expiry_comes_after_the_deadline_and_not_while_renewed(backend: Backend, store: Store) -> None:
    loop = asyncio.get_running_loop()
    asked_s = loop.time()
    lease = await store.grant(2)
    assert lease.ttl_s == 2
    assert asked_s + 2 <= lease.deadline_s <= loop.time() + 2
    key = backend.root + "alive"
    await store.commit(change(Put(key, b"", leased=True), lease=lease.id))
    while loop.time() < asked_s + 4:
        renewed = await store.renew(lease)
        assert renewed.deadline_s > lease.deadline_s
        lease = renewed
        await asyncio.sleep(0.4)
    assert await store.get(key) is not None
    await until_absent(store, key)
    assert loop.time() >= lease.deadline_s, "expired before its holder would have given it up"
    with pytest.raises(LeaseGone):
        await store.renew(lease)


# --- watches


async def test_watch_delivers_the_past_and_then_the_present(backend: Backend, store: Store) -> None:
    key = backend.root + "w/k"
    first = await put(store, key, b"0")
    await put(store, backend.root + "elsewhere")
    second = await put(store, key, b"1")
    watch = store.watch(backend.root + "w/", first)
    assert [(e.revision, e.entry.value) for e in await events(watch, 1) if e.entry] == [(second, b"1")]
    third = await put(backend.store(), key, b"2")
    gone = await store.commit(change(Delete(key)))
    seen = await events(watch, 2)
    assert seen == [
        KeyEvent(key, third, Entry(key, b"2", first, third, 3)),
        KeyEvent(key, gone.revision, None),
    ]


async def test_what_nobody_asks_for_is_left_out_and_counted(backend: Backend, store: Store) -> None:
    wanted, other = backend.root + "w/a", backend.root + "events/1"
    before = await put(store, backend.root + "x")
    watch = store.watch(backend.root, before, (backend.root + "events/", backend.root + "w/b"))
    both = await store.commit(change(Put(other, b"1"), Put(wanted, b"1"), Put(other + "1", b"1")))
    first = await asyncio.wait_for(anext(watch), SOON_S)
    assert ([e.key for e in first.events], first.revision) == ([wanted], both.revision)
    last = await store.commit(change(Put(other, b"2"), Put(backend.root + "w/b", b"2")))
    second = await asyncio.wait_for(anext(watch), SOON_S)
    assert (second.events, second.revision) == ((), last.revision)
    third = await store.commit(change(Delete(wanted)))
    assert [(e.key, e.revision, e.entry) for e in await events(watch, 1)] == [(wanted, third.revision, None)]


async def test_list_then_watch_misses_nothing(backend: Backend) -> None:
    writers = [backend.store() for _ in range(4)]

    async def write(writer: Store, n: int) -> None:
        for i in range(50):
            await put(writer, f"{backend.root}{n}/{i}")

    store = backend.store()
    async with asyncio.TaskGroup() as group:
        for n, writer in enumerate(writers):
            group.create_task(write(writer, n))
        await asyncio.sleep(0)
        snapshot = await store.list(backend.root)
        watch = store.watch(backend.root, snapshot.revision)
        seen = await events(watch, 200 - len(snapshot.entries))
    keys = [e.key for e in snapshot.entries] + [e.key for e in seen]
    assert len(keys) == len(set(keys)) == 200
    assert [e.revision for e in seen] == sorted(e.revision for e in seen)


async def test_watch_of_a_revision_that_is_gone(backend: Backend, store: Store) -> None:
    key = backend.root + "k"
    revisions = [await put(store, key) for _ in range(5)]
    await backend.compact(revisions[3])
    with pytest.raises(Compacted):
        await events(store.watch(backend.root, revisions[1]), 1)
    assert [e.revision for e in await events(store.watch(backend.root, revisions[2]), 2)] == revisions[3:]


async def test_a_closed_watch_is_over_and_others_live(backend: Backend, store: Store) -> None:
    key = backend.root + "k"
    first = await put(store, key)
    closed, open_ = store.watch(backend.root, first - 1), store.watch(backend.root, first - 1)
    await events(closed, 1)
    await closed.aclose()  # type: ignore[attr-defined]
    waiting = asyncio.ensure_future(events(store.watch(backend.root, first), 1))
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    second = await put(store, key)
    assert [e.revision for e in await events(open_, 2)] == [first, second]
    with pytest.raises(StopAsyncIteration):
        await anext(closed)


async def test_a_closed_store_answers_unavailable(backend: Backend, store: Store) -> None:
    revision = await put(store, backend.root + "k")
    watch = store.watch(backend.root, revision)
    waiting = asyncio.ensure_future(events(watch, 1))
    await asyncio.sleep(0.05)
    await store.close()
    with pytest.raises(Unavailable):
        await waiting
    with pytest.raises(Unavailable):
        await store.get(backend.root + "k")
    with pytest.raises(Unavailable):
        await store.commit(change(Put(backend.root + "k", b"")))
    assert (await backend.store().list(backend.root)).revision == revision


# --- the twin and the original, side by side


async def test_random_changes_give_the_same_history(backend: Backend, store: Store) -> None:
    """A model of a few lines, checked against both: outcomes, entries and events."""
    dice = random.Random(7)
    keys = [f"{backend.root}{name}" for name in "abcde"]
    start = await put(store, backend.root + "start")
    leases = [await store.grant(60) for _ in range(2)]
    model: dict[str, Entry] = {}
    expected: list[KeyEvent] = []
    revision = start
    for step in range(300):
        guard_key = dice.choice(keys)
        held = model.get(guard_key)
        truth = held.mod_revision if held else 0
        guards = (Guard(guard_key, "mod", truth if dice.random() < 0.8 else truth + 1),)
        targets = dice.sample(keys, dice.randint(1, 3))
        lease = dice.choice(leases)
        effects: list[Put | Delete] = [
            Put(key, b"%d" % step, leased=dice.random() < 0.3) if dice.random() < 0.6 else Delete(key)
            for key in targets
        ]
        outcome = await store.commit(change(*effects, guards=guards, lease=lease.id))
        if guards[0].value != truth:
            assert outcome == Lost(revision, outcome.cluster_id, outcome.term)
            continue
        done: list[KeyEvent] = []
        for effect in effects:
            old = model.get(effect.key)
            if isinstance(effect, Put):
                entry = Entry(
                    effect.key,
                    effect.value,
                    old.create_revision if old else revision + 1,
                    revision + 1,
                    old.version + 1 if old else 1,
                    lease.id if effect.leased else 0,
                )
                model[effect.key] = entry
                done.append(KeyEvent(effect.key, revision + 1, entry))
            elif model.pop(effect.key, None):
                done.append(KeyEvent(effect.key, revision + 1, None))
        revision += bool(done)
        expected += done
        assert outcome == Committed(revision, outcome.cluster_id, outcome.term)
    listed = {e.key: e for e in (await store.list(*keys)).entries}
    assert listed == model
    assert await events(store.watch(backend.root, start), len(expected)) == expected


# --- which etcd it is


async def test_every_answer_says_which_cluster_it_is_of(backend: Backend, store: Store) -> None:
    key = backend.root + "k"
    snapshot = await store.list(backend.root)
    assert snapshot.cluster_id > 0
    assert snapshot.term >= 2  # the first leader's
    nothing = Transaction(name="probe", guards=(), effects=(Delete("/nothing"),))
    answer = await store.commit(nothing)
    assert (answer.term, answer.revision) == (snapshot.term, snapshot.revision), "a write that changes nothing"
    watch = aiter(store.watch(backend.root, snapshot.revision))
    outcome = await store.commit(change(Put(key, b"v")))
    assert isinstance(outcome, Committed)
    lost = await store.commit(change(Put(key, b"v"), guards=(Guard(key, "mod", 0),)))
    assert isinstance(lost, Lost)
    async with asyncio.timeout(SOON_S):
        batch = await anext(watch)
    again = await store.list(backend.root)
    assert {outcome.cluster_id, lost.cluster_id, batch.cluster_id, again.cluster_id} == {snapshot.cluster_id}
    assert again.term >= snapshot.term


async def test_how_long_a_lease_lives_unless_it_is_renewed(backend: Backend, store: Store) -> None:
    lease = await store.grant(9)
    assert 7 <= await store.left_s(lease.id) <= 9
    begun_s = asyncio.get_running_loop().time()
    while await store.left_s(lease.id) > 6:
        assert asyncio.get_running_loop().time() < begun_s + SOON_S
        await asyncio.sleep(0.05)
    await store.renew(lease)
    assert 7 <= await backend.store().left_s(lease.id) <= 9  # anybody's
    await store.revoke(lease)
    assert await store.left_s(lease.id) == 0
