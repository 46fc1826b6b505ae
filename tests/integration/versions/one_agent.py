"""One agent on in-memory twins and a real etcd, of whichever source tree: TREE NAME NUMBER ENDPOINT FOLDER.

A program of its own, so that the agent of an older release and today's can run side by side. It uses that
tree's own rig (tests/unit/agent/agent_rig.py), so each release is joined as its own tests join it.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

TREE, NAME, NUMBER, ENDPOINT, FOLDER = sys.argv[1:6]
sys.path[:0] = [f"{TREE}/src", f"{TREE}/tests/unit/agent"]

import agent_rig  # noqa: E402

from metastack.settings import StoreSettings  # noqa: E402
from metastack.store.etcd import EtcdStore  # noqa: E402

agent_rig.MemoryStore = lambda cluster: EtcdStore(StoreSettings(endpoints=(ENDPOINT,)))


async def main() -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    lab = agent_rig.Lab(Path(FOLDER), 0, True)
    async with asyncio.TaskGroup() as group:
        lab.group = group
        host = lab.hosts[NAME] = agent_rig.Host(lab, NAME, int(NUMBER))
        host.start()
        await stop.wait()
        await host.stop()


asyncio.run(main())
