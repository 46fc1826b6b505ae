"""A member that was caught up by a snapshot says an older raft term: no reason to refuse a healthy etcd."""

from __future__ import annotations

from pathlib import Path

import pytest

from metastack.agent.cache.informer import Informer
from metastack.agent.session.etcd_history import EtcdHistory
from metastack.agent.session.state_files import StateFiles
from metastack.core.model import NodeFacts
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Put, Transaction
from metastack.lab.sim.engine.loop import run
from metastack.ports import Unavailable
from metastack.store.twin.cluster import MemoryCluster
from metastack.store.twin.store import MemoryStore

KEYS = Keys()


async def _seen(folder: Path) -> tuple[MemoryCluster, Informer, StateFiles]:
    """An etcd of a high term, as a node has seen it."""
    cluster, state_files = MemoryCluster(), StateFiles(folder)
    state_files.lock()
    state_files.begin_joined()
    facts = Put(KEYS.node_facts("n1"), encode(NodeFacts(name="n1", uuid="u")))
    cluster.apply(Transaction(name="other", guards=(), effects=(facts,)))
    cluster.term = 9
    informer = Informer(MemoryStore(cluster), KEYS, EtcdHistory("n1", KEYS, state_files), lambda _keys: None)
    await informer.look()
    return cluster, informer, state_files


def test_an_older_term_is_settled_by_a_write(tmp_path: Path) -> None:
    async def story() -> None:
        cluster, informer, state_files = await _seen(tmp_path)
        cluster.says_term, revision = 7, cluster.revision
        await informer.look()
        assert not informer.etcd_untrusted
        assert cluster.revision == revision, "it was no write that changes anything"
        informer.etcd_history.keep()
        assert not EtcdHistory("n1", KEYS, state_files).known.went_back, "nothing of it is kept"

    run(story())


def test_a_write_of_an_older_term_is_of_another_history(tmp_path: Path) -> None:
    async def story() -> None:
        cluster, informer, state_files = await _seen(tmp_path)
        cluster.term = 3
        with pytest.raises(Unavailable, match="raft term is 3, this node has seen 9"):
            await informer.look()
        assert EtcdHistory("n1", KEYS, state_files).known.went_back

    run(story())
