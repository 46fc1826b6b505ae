"""Whether fences still stand: of a node that was removed nothing is asked."""

from __future__ import annotations

from metastack.agent.fencing.fence_check import lifted
from metastack.core.model import Fence, FenceReceipt, NodeAlive, NodeFacts
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import Record, encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Entry, Snapshot
from metastack.lab.sim.engine.loop import run
from metastack.storage.twin import PLACE, MemoryPool, MemoryStorage

KEYS = Keys()
DONE = Fence(
    through=9,
    receipt=FenceReceipt(at="t", by="n2", method="ceph-blocklist", addresses=("10.0.0.1",), storage=PLACE),
)
FACTS = KEYS.node_facts("n1"), NodeFacts(name="n1", uuid="u", storage_addresses=("10.0.0.1",))


def _world(*records: tuple[str, Record]) -> ClusterState:
    world = ClusterState(KEYS)
    world.load(Snapshot(20, tuple(Entry(key, encode(record), 5, 5, 1) for key, record in records)))
    return world


def test_a_lifted_block_counts_only_for_a_known_node() -> None:
    async def story() -> None:
        storage, fence = MemoryStorage(MemoryPool(), "10.0.0.9"), (KEYS.fence("n1"), DONE)
        await storage.open()
        found = await lifted(_world(FACTS, fence), storage, ("n1",))
        assert found == {"n1": "10.0.0.1 is no longer blocked"}
        assert await lifted(_world(fence), storage, ("n1",)) == {}

    run(story())


def test_a_reopened_fence_of_a_removed_node_blocks_nothing() -> None:
    """A release before this asked for one, and nobody can make it: the addresses are forgotten."""

    async def story() -> None:
        storage = MemoryStorage(MemoryPool(), "10.0.0.9")
        await storage.open()
        opened = Fence(through=9, receipt=DONE.receipt, intent=True, intent_by="n2", intent_session=7)
        assert await lifted(_world((KEYS.fence("n1"), opened)), storage, ("n1",)) == {}

    run(story())


def test_a_fence_record_that_is_gone_proves_nothing() -> None:
    """Deleted, emptied, or without a receipt: who took a VM over cannot know that the node is out."""

    async def story() -> None:
        storage = MemoryStorage(MemoryPool(), "10.0.0.9")
        await storage.open()
        key = KEYS.fence("n1")
        gone = {"n1": "the record of its fence is gone"}
        assert await lifted(_world(FACTS), storage, ("n1",)) == gone
        assert await lifted(_world(FACTS, (key, Fence())), storage, ("n1",)) == gone
        bare = {"n1": "the record of its fence has no receipt"}
        assert await lifted(_world(FACTS, (key, Fence(through=9))), storage, ("n1",)) == bare
        # It was absent while it was fenced: a session that it has now is later.
        alive = KEYS.node_alive("n1"), NodeAlive(name="n1")
        assert await lifted(_world(FACTS, alive), storage, ("n1",)) == {}
        assert await lifted(_world(), storage, ("n1",)) == {}, "and it was removed"

    run(story())
