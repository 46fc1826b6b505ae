"""A watch that is told twice to begin again: once is enough, and the second is no error."""

from __future__ import annotations

import asyncio
from pathlib import Path

from metastack.agent.cache.informer import Informer
from metastack.agent.session.etcd_history import EtcdHistory
from metastack.agent.session.state_files import StateFiles
from metastack.core.state.keys import Keys
from metastack.lab.sim.engine.loop import run
from metastack.store.twin.cluster import MemoryCluster
from metastack.store.twin.store import MemoryStore

KEYS = Keys()


def test_a_change_in_the_ending_loop_turn_is_told(tmp_path: Path) -> None:
    async def story() -> None:
        state_files = StateFiles(tmp_path)
        state_files.lock()
        informer = Informer(
            MemoryStore(MemoryCluster()), KEYS, EtcdHistory("n1", KEYS, state_files), lambda _keys: None
        )
        following = asyncio.create_task(informer.run())
        await informer.looked.wait()
        await asyncio.sleep(1)  # virtual: the watch stands
        for _ in range(4):
            informer.restart()
            await asyncio.sleep(0)
        informer.looked.clear()
        async with asyncio.timeout(10):
            await informer.look()
        assert not following.done()
        following.cancel()

    run(story())
