"""A node that is gone for good leaves the list: on both stores; the test plays the agents."""

from __future__ import annotations

import pytest
from commands_rig import HELLO, Racing, Rig, request
from msgspec.structs import replace

from metastack.commands.cluster.status import cluster_view
from metastack.commands.fence.requests import unfence_node
from metastack.commands.fence.views import fence_view
from metastack.commands.node.change import cordon_node
from metastack.commands.node.remove import KINDS, check_removal, remove_node
from metastack.commands.node.views import node_infos
from metastack.commands.problem import Code, Problem
from metastack.commands.reading import EVERYTHING, read_world
from metastack.commands.request import Cluster
from metastack.commands.vm.change import NewVm, create_vm
from metastack.core.model import Claim, Fence, FenceReceipt, NodeAlive, NodeFacts, Placement
from metastack.core.protocol import claims, fences
from metastack.core.protocol.guards import OwnSession
from metastack.core.state.cluster_state import ClusterState
from metastack.core.transaction import Committed, Delete, Transaction
from metastack.storage.twin import MemoryPool, MemoryStorage

DONE = FenceReceipt(at="t", by="n2", method="ceph-blocklist", addresses=("10.0.0.1",), osd_epoch=7)


async def world_of(rig: Rig) -> ClusterState:
    return await read_world(rig.cluster, rig.keys.prefixes({*EVERYTHING, *KINDS}))


async def gone(rig: Rig, name: str = "n1") -> int:
    """A node that had a session, is lost and fenced; its session."""
    session = await rig.node(name)
    await rig.put(rig.keys.node_facts(name), NodeFacts(name=name, uuid="u", storage_addresses=("10.0.0.1",)))
    await rig.lose(name)
    revision = await rig.write()
    await rig.put(rig.keys.fence(name), Fence(through=revision, receipt=DONE))
    return session


async def refused(rig: Rig, name: str, code: Code, why: str) -> None:
    for ask in (lambda: check_removal(rig.cluster, name), lambda: remove_node(rig.cluster, request(), name)):
        with pytest.raises(Problem, match=why) as raised:
            await ask()  # type: ignore[no-untyped-call]
        assert raised.value.code is code
        assert raised.value.hint
    assert name == "n9" or name in (await world_of(rig)).nodes()


async def test_it_leaves_the_list_and_its_fence_stays(rig: Rig) -> None:
    await gone(rig)
    await rig.node("n2")
    await cordon_node(rig.cluster, request(), "n1")
    assert not cluster_view(await world_of(rig)).ok
    answer = await remove_node(rig.cluster, request("sold"), "n1")
    assert (answer.name, answer.deleted, answer.blocked) == ("n1", True, ["10.0.0.1"])
    world = await world_of(rig)
    assert [info.name for info in node_infos(world)] == ["n2"]
    assert cluster_view(world).ok
    assert world.node_spec("n1") is None
    view = fence_view(world, "n1")
    assert view is not None
    assert (view.state, view.addresses, view.returned) == ("fenced", ["10.0.0.1"], False)
    assert [(e.what, e.object, e.reason) for e in await rig.events()][-1] == ("node.remove", "node n1", "sold")
    assert await rig.store.get(rig.keys.removal("n1")) is None
    await refused(rig, "n9", Code.NOT_FOUND, "does not exist")


async def test_removal_that_would_release_the_brake_is_refused(rig: Rig) -> None:
    """Forgetting one of two lost nodes released the brake, and the other was fenced by itself."""
    await gone(rig)
    lost = await rig.node("n2")
    claim = Claim(node="n2", session=lost, uuid="u", volume_uuid="v", claim_id="c", epoch=9)
    await rig.put(rig.keys.claim(HELLO), claim)
    await rig.lose("n2")
    await rig.node("n3")
    n3 = (await world_of(rig)).alive("n3")
    assert n3 is not None
    assert n3.record is not None
    await rig.put(rig.keys.node_alive("n3"), replace(n3.record, brake="brake: 2 of 3 nodes vanished"))
    await refused(rig, "n1", Code.CONFLICT, "brake: 2 of 3 nodes vanished: .* n2 would be fenced at once")
    await rig.put(rig.keys.fence("n2"), Fence(through=await rig.write(), receipt=DONE))
    await remove_node(rig.cluster, request(), "n1")


async def test_its_block_can_be_lifted_afterwards(rig: Rig) -> None:
    await gone(rig)
    await remove_node(rig.cluster, request(), "n1")
    pool = MemoryPool()
    storage = MemoryStorage(pool)
    await storage.open()
    await storage.fence(("10.0.0.1",), "n2", "it was lost")
    view = await unfence_node(rig.cluster, request("sold"), "n1", storage)
    assert view.state == "unblocked"
    assert await storage.blocked(("10.0.0.1",)) == ()


async def test_what_still_matters_stays(rig: Rig) -> None:
    session = await rig.node("n1")
    await refused(rig, "n1", Code.CONFLICT, "is alive")
    await rig.lose("n1")
    await refused(rig, "n1", Code.CONFLICT, "its last session is not fenced")
    # Its session declares its addresses, which tells that it came back behind that fence.
    await rig.put(rig.keys.node_facts("n1"), NodeFacts(name="n1", uuid="u"))
    await rig.put(rig.keys.fence("n1"), Fence(through=session - 1, receipt=DONE))
    await refused(rig, "n1", Code.CONFLICT, "its last session is not fenced")
    through = await rig.write()
    await rig.put(rig.keys.fence("n1"), Fence(through=through, receipt=DONE, intent=True, intent_by="n2"))
    await refused(rig, "n1", Code.CONFLICT, "is being fenced right now")
    await rig.put(rig.keys.fence("n1"), Fence(through=through, receipt=DONE))
    await rig.image()
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    await rig.claim("n1", session)
    await refused(rig, "n1", Code.CONFLICT, "still has a claim on default/hello")
    await rig.release()
    await check_removal(rig.cluster, "n1")


async def test_vms_pinned_to_it_are_named(rig: Rig) -> None:
    await gone(rig)
    await rig.image()
    await rig.node("n2")
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    await rig.put(rig.keys.vm_spec(HELLO), replace(await rig.spec(), placement=Placement(node="n1")))
    assert (await remove_node(rig.cluster, request(), "n1")).pinned == ["default/hello"]


async def registers(rig: Rig) -> None:
    """What its agent does first when it returns."""
    lease = await rig.store.grant(60)
    found = (await world_of(rig)).fence("n1")
    change = claims.register(rig.keys, NodeAlive(name="n1"), lease.id, found)
    assert isinstance(await rig.store.commit(change), Committed)


@pytest.mark.parametrize("behind", [0, 1])
async def test_a_node_that_had_another_session_meanwhile_stays(rig: Rig, behind: int) -> None:
    """It registers, and is lost again, before the mark or behind it."""
    await gone(rig)
    seen: list[str] = []

    async def rival() -> None:
        await registers(rig)
        await rig.lose("n1")

    class Late(Racing):
        async def commit(self, change: Transaction) -> object:
            seen.append(change.name)
            if len(seen) == behind + 1:
                await self._rival()  # type: ignore[operator]
            return await self._store.commit(change)  # type: ignore[attr-defined]

    racing = Cluster(Late(rig.store, rival), rig.keys)  # type: ignore[arg-type]
    await remove_node(racing, request(), "n1")
    # Behind the mark the first try loses to the session; the second finds the node as lost as before it.
    assert seen == ["announce_removal", "node.remove"] * (1 + behind)
    assert "n1" not in (await world_of(rig)).nodes()


async def test_a_fence_that_was_decided_before_is_too_late(rig: Rig) -> None:
    await gone(rig)
    session = await rig.node("n2")
    found = (await world_of(rig)).fence("n1")
    await remove_node(rig.cluster, request(), "n1")
    me = OwnSession(node="n2", session=session, lease=0)
    late = fences.intent(rig.keys, me, "n1", found)
    assert not isinstance(await rig.store.commit(late), Committed)
    await rig.write(Delete(rig.keys.node_alive("n2")))
