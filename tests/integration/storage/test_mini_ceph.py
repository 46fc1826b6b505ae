"""The mini Ceph as a thing of its own: killed, restarted, adopted, and never confused with another's daemon."""

from __future__ import annotations

import asyncio
import os
import subprocess
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from metastack.lab.dev.ceph import MiniCeph, new_address
from metastack.ports import Refused

pytestmark = pytest.mark.ceph


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="ms-mini-", dir="/tmp"))
    yield made
    assert not made.exists()


@pytest.fixture
async def cluster(folder: Path) -> AsyncIterator[MiniCeph]:
    made = MiniCeph(folder, address=new_address(), v2_port=3300, v1_port=6789)
    try:
        await made.create()
        yield made
    finally:
        await made.destroy()


async def until_missing(cluster: MiniCeph, *names: str) -> None:
    async with asyncio.timeout(30):
        while cluster.status().missing != names:  # noqa: ASYNC110 - the kernel tells no event of others' children
            await asyncio.sleep(0.02)


async def test_life(cluster: MiniCeph) -> None:
    """One cluster for all of it: making one takes seconds."""
    assert cluster.status().running == ("mon.a", "osd.0")
    with pytest.raises(Refused, match="is not empty"):
        await cluster.create()
    await cluster.create_pool("vms")
    await cluster.create_pool("vms")

    # Killed, and started again on the same data.
    cluster.kill("osd.0")
    await until_missing(cluster, "osd.0")
    cluster.kill("osd.0")
    await cluster.start()
    assert cluster.status().missing == ()
    assert "vms" in (await cluster.ceph("osd", "pool", "ls")).decode()

    # Whoever lost the records adopts by Ceph's own pid files, and starts nothing twice.
    pids = [(cluster.directory / "run" / f"{name}.pid").read_text() for name in ("mon.a", "osd.0")]
    for name in ("mon.a", "osd.0"):
        (cluster.directory / "run" / f"{name}.json").unlink()
    another = MiniCeph(cluster.directory, address=cluster.address, v2_port=3300, v1_port=6789)
    assert another.status().running == ("mon.a", "osd.0")
    await another.start()
    assert [(cluster.directory / "run" / f"{name}.pid").read_text() for name in ("mon.a", "osd.0")] == pids

    # A pid that was given to somebody else is not ours to signal.
    await another.stop()
    assert another.status().missing == ("mon.a", "osd.0")
    stranger = subprocess.Popen(["sleep", "60"])  # noqa: ASYNC220 - only its pid matters
    try:
        (cluster.directory / "run" / "osd.0.pid").write_text(str(stranger.pid))
        assert another.status().missing == ("mon.a", "osd.0")
        another.kill("osd.0")
        await another.stop()
        assert stranger.poll() is None
        os.kill(stranger.pid, 0)
    finally:
        stranger.kill()
        stranger.wait()
    await another.start()
    assert another.status().missing == ()
