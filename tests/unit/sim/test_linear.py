"""The judge of etcd's answers: quiet about an honest twin, and not about one that lies in one way."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from metastack.core.transaction import Delete, Entry, Guard, KeyEvent, Lost, Outcome, Put, Transaction
from metastack.lab.sim.engine.etcd import SimCluster
from metastack.lab.sim.judges.linearizability_judge import LinearizabilityJudge
from metastack.store.twin.store import MemoryStore

KEYS = ("/m/a", "/m/b", "/m/c")


class _Stale(SimCluster):
    """Reads are answered by a member that lags."""

    def get(self, key: str) -> Entry | None:
        first = [event.entry for _, events in self.past for event in events if event.key == key]
        return first[0] if first else None


class _Torn(SimCluster):
    """A list leaves a key out."""

    def under(self, prefix: str) -> tuple[Entry, ...]:
        return super().under(prefix)[:-1]


class _Undead(SimCluster):
    """A list has a key that was deleted."""

    def under(self, prefix: str) -> tuple[Entry, ...]:
        gone = (e.entry for _, events in self.past for e in events if e.entry and e.key not in self._entries)
        return (*super().under(prefix), *gone)


class _Lax(SimCluster):
    """No compare is made."""

    def _holds(self, guard: Guard) -> bool:
        return True


class _Spurious(SimCluster):
    """Transactions that hold are said to have lost."""

    def apply(self, change: Transaction) -> Outcome:
        super().apply(change)
        return Lost(self.revision, self.id)


class _Sloppy(SimCluster):
    """A transaction's last effect gets lost."""

    def apply(self, change: Transaction) -> Outcome:
        return super().apply(Transaction(name=change.name, guards=change.guards, effects=change.effects[:-1]))


class _Eager(SimCluster):
    """A put touches another key as well."""

    def _record(self, revision: int, events: list[KeyEvent]) -> None:
        super()._record(revision, [*events, KeyEvent("/m/other", revision, None)] if events else events)


class _Early(SimCluster):
    """An answer names a revision that was before the question."""

    def apply(self, change: Transaction) -> Outcome:
        outcome = super().apply(change)
        return type(outcome)(outcome.revision - 1, outcome.cluster_id)


async def _play(cluster: SimCluster) -> list[str]:
    said: list[str] = []
    linear = LinearizabilityJudge(cluster, lambda kind, what: said.append(f"{kind}: {what}"))
    store = MemoryStore(cluster)

    async def commit(*effects: Put | Delete, guards: tuple[Guard, ...] = ()) -> None:
        change = Transaction(name="one", guards=guards, effects=effects)
        await linear.during("commit", lambda: store.commit(change), linear.told(change))

    async def read() -> None:
        for key in KEYS:
            await linear.during(f"get {key}", lambda key=key: store.get(key), linear.got(key))
        await linear.during("list", lambda: store.list("/m/"), linear.listed("/m/"))

    a, b, c = KEYS
    await commit(Put(a, b"1"), Put(b, b"1"))
    await commit(Put(a, b"2"), guards=(Guard(a, "mod", 2), Guard(c, "mod", 0)))
    await commit(Put(c, b"1"), guards=(Guard(a, "version", 1),))  # loses
    await read()
    await commit(Delete(b), Put(c, b"2"), guards=(Guard(a, "create", 2),))
    await commit(Delete("/m/x", "/m/z"))  # nothing is there
    await asyncio.gather(*(commit(Put(key, b"3"), guards=(Guard(a, "mod", 3),)) for key in KEYS), read())
    await commit(Delete("/m/", "/m0"))
    await read()
    return said


async def test_an_honest_etcd_is_believed() -> None:
    assert await _play(SimCluster()) == []


@pytest.mark.parametrize(
    ("lies", "what"),
    [
        (_Stale, "never was"),
        (_Torn, "is not in it"),
        (_Undead, "was not there"),
        (_Lax, "did not hold"),
        (_Spurious, "it lost, and held"),
        (_Sloppy, "it did not"),
        (_Eager, "it changed /m/other as well"),
        (_Early, "it was committed at"),
    ],
)
async def test_one_that_lies_is_not(lies: Callable[[], SimCluster], what: str) -> None:
    said = await _play(lies())
    assert any(one.startswith("linearizable: ") and what in one for one in said), said


async def test_what_a_restore_came_in_between_of_is_not_judged() -> None:
    cluster, said = SimCluster(), []
    linear = LinearizabilityJudge(cluster, lambda kind, what: said.append(what))
    store = MemoryStore(cluster)
    for value in (b"1", b"2"):
        await store.commit(Transaction(name="one", guards=(), effects=(Put(KEYS[0], value),)))

    async def old() -> Entry | None:
        found = await store.get(KEYS[0])
        cluster.restore_as_of(0.0, same_id=True)
        return found

    await linear.during("get", old, linear.got(KEYS[0]))
    await linear.during("get", lambda: store.get(KEYS[0]), linear.got(KEYS[0]))
    assert said == []
