"""Fences by hand on both stores; the test plays the agents."""

from __future__ import annotations

import asyncio

import pytest
from commands_rig import HELLO, Racing, Rig, request
from msgspec.structs import replace

from metastack.commands.fence.requests import check_fence, check_unfence, fence_node, unfence_node, wait_fenced
from metastack.commands.fence.views import fence_view, fence_views, open_for_s
from metastack.commands.node.views import node_infos
from metastack.commands.problem import Code, Problem
from metastack.commands.reading import EVERYTHING, read_world
from metastack.commands.request import Cluster
from metastack.commands.vm.change import NewVm, create_vm
from metastack.core.model import Fence, FenceReceipt, NodeAlive, NodeFacts
from metastack.core.protocol import fences
from metastack.core.protocol.guards import OwnSession
from metastack.core.state.cluster_state import ClusterState, seen
from metastack.core.state.codec import encode
from metastack.core.state.fence_proof import UNBLOCKED
from metastack.core.transaction import Put, Transaction
from metastack.storage.twin import MemoryPool, MemoryStorage


async def world_of(rig: Rig) -> ClusterState:
    return await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING))


async def lost_node(rig: Rig, name: str = "n1") -> int:
    """A node that had a session and is lost; its session."""
    session = await rig.node(name)
    facts = NodeFacts(name=name, uuid=f"uuid-{name}", storage_addresses=("10.0.0.1",))
    await rig.put(rig.keys.node_facts(name), facts)
    await rig.lose(name)
    return session


async def fence_record(rig: Rig, name: str = "n1") -> Fence:
    entry = await rig.store.get(rig.keys.fence(name))
    assert entry is not None
    return seen(Fence, entry).ok


async def agent_does_it(rig: Rig, victim: str, by: str, session: int) -> None:
    """What an agent does: take the intent over, block, done."""
    me = OwnSession(node=by, session=session, lease=0)
    for step in ("take over", "done"):
        entry = await rig.store.get(rig.keys.fence(victim))
        assert entry is not None
        found = seen(Fence, entry)
        if step == "done":
            receipt = FenceReceipt(at="t", by=by, method="memory", addresses=("10.0.0.1",), osd_epoch=7)
            change = fences.done(rig.keys, victim, found, receipt)
        else:
            change = fences.take_over_intent(rig.keys, me, victim, found)
        await rig.store.commit(change)


async def test_fence_by_hand_is_done_by_an_agent(rig: Rig) -> None:
    session = await lost_node(rig)
    n2 = await rig.node("n2")
    before = await fence_node(rig.cluster, request("it burns"), "n1")
    assert before == 0
    record = await fence_record(rig)
    assert (record.intent, record.intent_by, record.intent_reason) == (True, fences.BY_HAND, "it burns")
    view = fence_view(await world_of(rig), "n1")
    assert view is not None
    assert (view.state, view.intent_by, view.trouble) == ("open", "(by hand)", None)
    told: list[str] = []
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(wait_fenced(rig.cluster, "n1", before, 20, told.append))
        await agent_does_it(rig, "n1", "n2", n2)
    done = waiting.result()
    assert (done.state, done.by, done.osd_epoch) == ("fenced", "n2", 7)
    assert done.fenced_through is not None
    assert done.fenced_through > session
    assert [event.what for event in await rig.events()][-1] == "node.fence"
    assert [v.name for v in fence_views(await world_of(rig))] == ["n1"]
    # Asked again, it is fenced again, and later.
    again = await fence_node(rig.cluster, request("more"), "n1")
    assert again == done.fenced_through


async def test_an_open_fence_is_left_to_its_fencer(rig: Rig) -> None:
    await lost_node(rig)
    await fence_node(rig.cluster, request("a"), "n1")
    before = await fence_record(rig)
    await fence_node(rig.cluster, request("b"), "n1")
    assert await fence_record(rig) == before


@pytest.mark.parametrize(
    ("reason", "name", "code"),
    [("", "n1", Code.USAGE), ("why", "nobody", Code.NOT_FOUND), ("why", "n2", Code.CONFLICT)],
)
async def test_refusals(rig: Rig, reason: str, name: str, code: Code) -> None:
    await lost_node(rig)
    await rig.node("n2")
    with pytest.raises(Problem) as raised:
        await fence_node(rig.cluster, request(reason), name)
    assert raised.value.code is code
    assert raised.value.hint
    with pytest.raises(Problem) as raised:
        await unfence_node(rig.cluster, request(reason), name, MemoryStorage(MemoryPool()))
    assert raised.value.code is code


async def test_a_node_returning_in_time_is_not_fenced(rig: Rig) -> None:
    await lost_node(rig)

    async def back() -> None:
        await rig.node("n1")

    racing = Cluster(Racing(rig.store, back), rig.keys)  # type: ignore[arg-type]
    with pytest.raises(Problem, match="is alive"):
        await fence_node(racing, request("why"), "n1")
    assert await rig.store.get(rig.keys.fence("n1")) is None


async def test_waiting_says_what_is_wrong(rig: Rig) -> None:
    await lost_node(rig)
    before = await fence_node(rig.cluster, request("why"), "n1")
    with pytest.raises(Problem, match="no node is ready to carry out the fence") as raised:
        await wait_fenced(rig.cluster, "n1", before, 0.3)
    assert raised.value.code is Code.TIMEOUT
    await rig.node("n2")
    entry = await rig.store.get(rig.keys.node_alive("n2"))
    assert entry is not None
    alive = replace(seen(NodeAlive, entry).ok, fence_failures={"n1": "client.x may not"})
    await rig.put(rig.keys.node_alive("n2"), alive)
    with pytest.raises(Problem, match=r"does not confirm the block: n2 reports: client\.x may not"):
        await wait_fenced(rig.cluster, "n1", before, 0.3)
    # The node comes back and cancels it.
    await rig.put(rig.keys.fence("n1"), Fence())
    await rig.node("n1")
    with pytest.raises(Problem, match="returned by itself") as raised:
        await wait_fenced(rig.cluster, "n1", before, 5)
    assert raised.value.code is Code.CONFLICT


async def test_a_node_lost_again_is_not_called_fenced(rig: Rig) -> None:
    await lost_node(rig)
    n2 = await rig.node("n2")
    await fence_node(rig.cluster, request("why"), "n1")
    await agent_does_it(rig, "n1", "n2", n2)
    world = await world_of(rig)
    view = fence_view(world, "n1")
    assert view is not None and not view.returned
    assert "; fenced at t by n2" in told_of(world, "n1")
    await lost_node(
        rig
    )  # it declares its addresses again, has no VM, and is lost: nothing of it is blocked now
    world = await world_of(rig)
    view = fence_view(world, "n1")
    assert view is not None and view.returned
    assert told_of(world, "n1") == "its lease expired; not fenced since it returned"


def told_of(world: ClusterState, name: str) -> str:
    (info,) = [info for info in node_infos(world) if info.name == name]
    return info.message or ""


async def test_what_cannot_be_is_said_before_anybody_is_asked(rig: Rig) -> None:
    await rig.node("n2")
    for check in (check_fence, check_unfence):
        with pytest.raises(Problem, match="does not exist"):
            await check(rig.cluster, "n9")
    await rig.put(rig.keys.node_facts("n2"), NodeFacts(name="n2", uuid="uuid-n2"))
    for check in (check_fence, check_unfence):
        with pytest.raises(Problem, match="is alive"):
            await check(rig.cluster, "n2")
    await lost_node(rig)
    await check_fence(rig.cluster, "n1")


async def test_how_long_an_intent_is_open() -> None:
    assert open_for_s(Fence()) is None
    assert open_for_s(Fence(intent=True)) is None
    assert open_for_s(Fence(intent=True, intent_at="yesterday")) is None
    assert (open_for_s(Fence(intent=True, intent_at="2026-01-01T00:00:00Z")) or 0) > 86400


async def test_unfence_lifts_records_and_forgets(rig: Rig) -> None:
    await lost_node(rig)
    n2 = await rig.node("n2")
    await fence_node(rig.cluster, request("why"), "n1")
    pool = MemoryPool(blocked={"10.0.0.1", "10.0.0.9"})
    storage = MemoryStorage(pool)
    with pytest.raises(Problem, match="being fenced right now"):
        await unfence_node(rig.cluster, request("gone"), "n1", storage)
    await agent_does_it(rig, "n1", "n2", n2)
    through = (await fence_record(rig)).through
    view = await unfence_node(rig.cluster, request("sold"), "n1", storage)
    assert pool.blocked == {"10.0.0.9"}
    assert (view.state, view.reason, view.fenced_through) == ("unblocked", "sold", through)
    assert not view.returned
    # After a restore of etcd this word is what says that nobody waits for the host.
    assert view.method == UNBLOCKED
    assert told_of(await world_of(rig), "n1").startswith("its lease expired; its block was lifted by hand at ")
    facts = (await world_of(rig)).facts("n1")
    assert facts is not None
    assert facts.ok.storage_addresses == ()
    assert [event.what for event in await rig.events()][-2:] == ["node.unfence", "node.unfenced"]


async def test_unfence_of_a_node_that_owns_vms(rig: Rig) -> None:
    await rig.image()
    session = await lost_node(rig)
    n2 = await rig.node("n2")
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    await rig.claim("n1", session)
    pool = MemoryPool(blocked={"10.0.0.1"})
    with pytest.raises(Problem, match="owns default/hello"):
        await unfence_node(rig.cluster, request("gone"), "n1", MemoryStorage(pool))
    await fence_node(rig.cluster, request("why"), "n1")
    await agent_does_it(rig, "n1", "n2", n2)
    with pytest.raises(Problem, match="not been taken over"):
        await unfence_node(rig.cluster, request("gone"), "n1", MemoryStorage(pool))
    assert pool.blocked == {"10.0.0.1"}


async def test_a_fence_done_during_an_unfence_wins(rig: Rig) -> None:
    await lost_node(rig)
    n2 = await rig.node("n2")
    await fence_node(rig.cluster, request("why"), "n1")
    await agent_does_it(rig, "n1", "n2", n2)
    pool = MemoryPool(blocked={"10.0.0.1"})

    class Slow(MemoryStorage):
        """While its unblock is on the way, the node came back, was lost again and fenced again."""

        async def unfence(self, addresses: tuple[str, ...]) -> None:
            await fence_node(rig.cluster, request("again"), "n1")
            await agent_does_it(rig, "n1", "n2", n2)
            await super().unfence(addresses)

    with pytest.raises(Problem, match="blocked again"):
        await unfence_node(rig.cluster, request("gone"), "n1", Slow(pool))
    assert pool.blocked == {"10.0.0.1"}
    assert (await fence_record(rig)).receipt.method == "memory"  # type: ignore[union-attr]


async def test_a_broken_record_is_shown_as_such(rig: Rig) -> None:
    await lost_node(rig)
    await rig.store.commit(
        Transaction(name="test", guards=(), effects=(Put(rig.keys.fence("n1"), b'{"v": 99}'),))
    )
    view = fence_view(await world_of(rig), "n1")
    assert view is not None
    assert (view.state, view.broken) == ("broken", True)
    with pytest.raises(Problem, match="cannot be read"):
        await fence_node(rig.cluster, request("why"), "n1")
    assert encode(Fence())
