"""An OSD that was killed and is back serves a client that heard of an older OSD map while it was away.

Found by ``metastack dev chaos`` (an OSD killed, a node frozen, its VMs taken over): the agent that took them
over waited at the dead OSD's address for ever, while all others went on. Any new OSD map, such as that of a
fence, uses up the client's one request for the next map; whoever then sends to the old address learns nothing
more, because Ceph's client asks again only for operations that are older than ``objecter_timeout``, and ours
were given up by then.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from metastack.lab.dev.ceph import MiniCeph, new_address
from metastack.storage.ceph.storage import CephStorage

pytestmark = pytest.mark.ceph


@pytest.fixture
async def cluster() -> AsyncIterator[MiniCeph]:
    made = MiniCeph(
        Path(tempfile.mkdtemp(prefix="ms-osd-", dir="/tmp")), address=new_address(), v2_port=3300, v1_port=6789
    )
    try:
        await made.create()
        await made.create_pool("vms")
        yield made
    finally:
        await made.destroy()


async def test_a_client_finds_the_osd_again(cluster: MiniCeph) -> None:
    storage = CephStorage(cluster.settings("admin"))
    await storage.open()
    try:
        assert await storage.disks() == []
        cluster.kill("osd.0")
        async with asyncio.timeout(30):
            while cluster.status().missing != ("osd.0",):  # noqa: ASYNC110 - no event of others' children
                await asyncio.sleep(0.02)
        # The map changes while the monitor still takes the OSD to be up at its old address.
        await cluster.ceph("osd", "blocklist", "add", "192.0.2.1:0/0", "60")
        first = asyncio.create_task(storage.disks())
        await cluster.start()
        async with asyncio.timeout(9):
            assert await first == []
    finally:
        await storage.close()
