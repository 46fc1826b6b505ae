"""A member that was caught up by a snapshot says an older raft term: no reason to refuse a healthy etcd."""

from __future__ import annotations

from pathlib import Path

import pytest

from metastack.agent.marks import Marks
from metastack.agent.mirror import Mirror
from metastack.agent.past import Past
from metastack.core.change import Change, Put
from metastack.core.codec import encode
from metastack.core.keys import Keys
from metastack.core.model import NodeFacts
from metastack.ports import Unavailable
from metastack.sim.loop import run
from metastack.store.memory import MemoryStore
from metastack.store.memory_cluster import MemoryCluster

KEYS = Keys()


async def _seen(folder: Path) -> tuple[MemoryCluster, Mirror, Marks]:
    """An etcd of a high term, as a node has seen it."""
    cluster, marks = MemoryCluster(), Marks(folder)
    marks.lock()
    marks.begin_joined()
    facts = Put(KEYS.node_facts("n1"), encode(NodeFacts(name="n1", uuid="u")))
    cluster.apply(Change(name="other", guards=(), effects=(facts,)))
    cluster.term = 9
    mirror = Mirror(MemoryStore(cluster), KEYS, Past("n1", KEYS, marks), lambda _keys: None)
    await mirror.look()
    return cluster, mirror, marks


def test_an_older_term_is_settled_by_a_write_and_refuses_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        cluster, mirror, marks = await _seen(tmp_path)
        cluster.says_term, revision = 7, cluster.revision
        await mirror.look()
        assert not mirror.went_back
        assert cluster.revision == revision, "it was no write that changes anything"
        mirror.past.keep()
        assert not Past("n1", KEYS, marks).known.went_back, "nothing of it is kept"

    run(story())


def test_a_write_of_an_older_term_is_of_another_history(tmp_path: Path) -> None:
    async def story() -> None:
        cluster, mirror, marks = await _seen(tmp_path)
        cluster.term = 3
        with pytest.raises(Unavailable, match="raft term is 3, this node has seen 9"):
            await mirror.look()
        assert Past("n1", KEYS, marks).known.went_back

    run(story())
