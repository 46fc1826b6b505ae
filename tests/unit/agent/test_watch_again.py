"""A watch that is told twice to begin again: once is enough, and the second is no error."""

from __future__ import annotations

import asyncio
from pathlib import Path

from metastack.agent.marks import Marks
from metastack.agent.mirror import Mirror
from metastack.agent.past import Past
from metastack.core.keys import Keys
from metastack.sim.loop import run
from metastack.store.memory import MemoryStore
from metastack.store.memory_cluster import MemoryCluster

KEYS = Keys()


def test_told_again_in_the_turn_of_the_loop_in_which_it_ends(tmp_path: Path) -> None:
    async def story() -> None:
        marks = Marks(tmp_path)
        marks.lock()
        mirror = Mirror(MemoryStore(MemoryCluster()), KEYS, Past("n1", KEYS, marks), lambda _keys: None)
        following = asyncio.create_task(mirror.run())
        await mirror.looked.wait()
        await asyncio.sleep(1)  # virtual: the watch stands
        for _ in range(4):
            mirror.restart()
            await asyncio.sleep(0)
        mirror.looked.clear()
        async with asyncio.timeout(10):
            await mirror.look()
        assert not following.done()
        following.cancel()

    run(story())
