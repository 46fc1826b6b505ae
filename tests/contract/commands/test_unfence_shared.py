"""``node unfence`` of a node whose address another one has: on both stores; the test plays the agents."""

from __future__ import annotations

import pytest
from commands_rig import Racing, Rig, request

from metastack.agent.session.identity import Misconfigured, refuse_shared
from metastack.commands.fence.requests import check_unfence, unfence_node
from metastack.commands.fence.views import fence_view
from metastack.commands.node.remove import remove_node
from metastack.commands.problem import Code, Problem
from metastack.commands.reading import EVERYTHING, read_world
from metastack.commands.request import Cluster
from metastack.core.model import ClusterConfig, Fence, FenceReceipt, Fencing, NodeFacts
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.keys import Kind
from metastack.core.state.record_versions import LEVEL
from metastack.storage.twin import MemoryPool, MemoryStorage

SHARED = "10.0.0.1"


async def world_of(rig: Rig) -> ClusterState:
    return await read_world(rig.cluster, rig.keys.prefixes({*EVERYTHING, Kind.FENCE, Kind.STORAGE}))


async def joined(rig: Rig, name: str, *addresses: str) -> None:
    """A node that has a session and declared its addresses."""
    await rig.node(name)
    await declared(rig, name, *addresses)


async def declared(rig: Rig, name: str, *addresses: str) -> None:
    facts = NodeFacts(name=name, uuid=f"uuid-{name}", storage_addresses=addresses)
    await rig.put(rig.keys.node_facts(name), facts)


async def fenced(rig: Rig, name: str, storage: MemoryStorage, *addresses: str) -> None:
    """It is lost, and was shut out."""
    await rig.lose(name)
    receipt = await storage.fence(addresses, "n2", "it was lost")
    await rig.put(rig.keys.fence(name), Fence(through=await rig.write(), receipt=receipt))


async def opened(pool: MemoryPool) -> MemoryStorage:
    storage = MemoryStorage(pool)
    await storage.open()
    return storage


async def refused(rig: Rig, name: str, storage: MemoryStorage, why: str) -> Problem:
    for ask in (
        lambda: check_unfence(rig.cluster, name),
        lambda: unfence_node(rig.cluster, request("x"), name, storage),
    ):
        with pytest.raises(Problem, match=why) as raised:
            await ask()  # type: ignore[no-untyped-call]
        assert raised.value.code is Code.CONFLICT
        assert raised.value.hint
    return raised.value


async def removed(rig: Rig, storage: MemoryStorage, name: str = "n1") -> None:
    await joined(rig, name, SHARED)
    await fenced(rig, name, storage, SHARED)
    await remove_node(rig.cluster, request("sold"), name)


async def test_the_block_of_the_addresss_new_node_stays(rig: Rig) -> None:
    pool = MemoryPool()
    storage = await opened(pool)
    await removed(rig, storage)
    await joined(rig, "n4", SHARED)
    await fenced(rig, "n4", storage, SHARED)
    await refused(rig, "n1", storage, r"node n4 also has 10\.0\.0\.1")
    assert pool.blocked == {SHARED}, "n4's guest may only be frozen"
    view = fence_view(await world_of(rig), "n1")
    assert view is not None and view.state == "fenced"
    assert "n1" not in (await world_of(rig)).nodes()
    # The way for n4, should it be gone for good, is not barred by what n1 was.
    assert (await unfence_node(rig.cluster, request("sold"), "n4", storage)).state == "unblocked"
    assert (await unfence_node(rig.cluster, request("sold"), "n1", storage)).state == "unblocked"
    assert pool.blocked == set()


async def test_the_block_is_of_the_node_fenced_last(rig: Rig) -> None:
    pool = MemoryPool()
    storage = await opened(pool)
    await removed(rig, storage)
    await removed(rig, storage, "n4")
    await refused(rig, "n1", storage, r"node n4 also has 10\.0\.0\.1")
    assert pool.blocked == {SHARED}
    assert (await unfence_node(rig.cluster, request("sold"), "n4", storage)).state == "unblocked"
    assert (await unfence_node(rig.cluster, request("sold"), "n1", storage)).state == "unblocked"


async def test_a_late_declaration_keeps_the_block(rig: Rig) -> None:
    """Between the look and the first record: its facts are of a key that nobody could compare."""
    pool = MemoryPool()
    storage = await opened(pool)
    await removed(rig, storage)

    async def rival() -> None:
        await joined(rig, "n4", SHARED)
        await fenced(rig, "n4", storage, SHARED)

    racing = Cluster(Racing(rig.store, rival), rig.keys)  # type: ignore[arg-type]
    with pytest.raises(Problem, match=r"node n4 also has 10\.0\.0\.1"):
        await unfence_node(racing, request("sold"), "n1", storage)
    assert pool.blocked == {SHARED}
    assert "n1" not in (await world_of(rig)).nodes()


async def test_an_address_is_refused_during_its_unblock(rig: Rig) -> None:
    pool = MemoryPool()
    told: list[str] = []

    class Slow(MemoryStorage):
        async def unfence(self, names: tuple[str, ...]) -> None:
            await joined(rig, "n4", SHARED)
            with pytest.raises(Misconfigured) as raised:
                await refuse_shared("n4", (SHARED,), rig.keys, rig.store)
            told.append(str(raised.value))
            await super().unfence(names)

    await removed(rig, await opened(pool))
    view = await unfence_node(rig.cluster, request("sold"), "n1", Slow(pool))
    assert view.state == "unblocked"
    assert len(told) == 1 and "node n1 has the storage address" in told[0]
    await refuse_shared("n4", (SHARED,), rig.keys, rig.store)
    assert "n1" not in (await world_of(rig)).nodes(), "it was removed, and stays so"


async def test_a_shared_address_is_lifted_for_neither_node(rig: Rig) -> None:
    pool = MemoryPool()
    storage = await opened(pool)
    await joined(rig, "n1", SHARED)
    await joined(rig, "n4", SHARED)
    await fenced(rig, "n1", storage, SHARED)
    problem = await refused(rig, "n1", storage, r"node n4 also has 10\.0\.0\.1")
    assert "metastack node remove n1" in problem.hint
    assert pool.blocked == {SHARED}
    await remove_node(rig.cluster, request("sold"), "n1")
    await refuse_shared("n4", (SHARED,), rig.keys, rig.store)


async def test_a_shareable_address_counts_only_once_blocked(rig: Rig) -> None:
    await rig.put(rig.keys.cluster(), ClusterConfig(record_version=LEVEL, fencing=Fencing.CLIENT))
    pool = MemoryPool()
    storage = await opened(pool)
    for name in ("n1", "n4"):
        await joined(rig, name, SHARED)
    await fenced(rig, "n1", storage, SHARED)
    await fenced(rig, "n4", storage, SHARED)  # both of before the settings said so
    await refused(rig, "n1", storage, r"node n4 also has 10\.0\.0\.1")
    await rig.put(rig.keys.fence("n4"), Fence(through=5, receipt=FenceReceipt(at="t", by="n2", method="x")))
    assert (await unfence_node(rig.cluster, request("sold"), "n1", storage)).state == "unblocked"


async def test_what_nobody_can_read_may_be_the_address(rig: Rig) -> None:
    pool = MemoryPool()
    storage = await opened(pool)
    await removed(rig, storage)
    await rig.put(rig.keys.node_facts("n4"), NodeFacts(v=99, name="n4", uuid="u"))
    await refused(rig, "n1", storage, "the addresses of node n4 cannot be read")
    assert pool.blocked == {SHARED}


async def test_a_returning_node_keeps_its_addresses(rig: Rig) -> None:
    """It is lost again and not fenced yet: the next fence needs them."""
    pool = MemoryPool()

    class Slow(MemoryStorage):
        async def unfence(self, names: tuple[str, ...]) -> None:
            await joined(rig, "n1", SHARED)
            await rig.lose("n1")
            await super().unfence(names)

    await joined(rig, "n1", SHARED)
    await fenced(rig, "n1", await opened(pool), SHARED)
    with pytest.raises(Problem, match="blocked again"):
        await unfence_node(rig.cluster, request("sold"), "n1", Slow(pool))
    assert pool.blocked == {SHARED}
    facts = (await world_of(rig)).facts("n1")
    assert facts is not None and facts.ok.storage_addresses == (SHARED,)
