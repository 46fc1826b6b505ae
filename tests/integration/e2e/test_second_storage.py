"""Fault (a) of the last gate, whole: a node of another Ceph, which has a disk of the same name and mark."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import tomli_w
from e2e_lab import Lab
from test_last_gate import delete_claim, pids

from metastack.lab.dev.ceph import MiniCeph
from metastack.lab.dev.plan import CONSOLE_PORT, agent_config

pytestmark = [pytest.mark.proof, pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]

WATCHED_S = 6.0
"""A node that may starts a guest within 2 s; a lease ends after 3 s."""


@pytest.fixture
def other_ceph(lab: Lab) -> Iterator[MiniCeph]:
    """Another Ceph, which every host reaches; the users have the same names."""
    ours = lab.cluster.ceph
    assert ours is not None
    other = MiniCeph(
        lab.cluster.layout.folder / "other-ceph",
        address=ours.address,
        v2_port=3301,
        v1_port=6790,
        osd_ports=(7310, 7800),
        prefix=ours.prefix,
        osd_bytes=1 << 30,
    )

    async def make() -> None:
        await other.create()
        await other.create_pool()
        await other.create_node_user("node-n3", lab.cluster.host("n3").address)

    asyncio.run(make())
    yield other
    asyncio.run(other.destroy())


def copy_of_its_disk(ours: MiniCeph, other: MiniCeph, uuid: str, image: Path) -> None:
    """A bootable disk of that name in the other Ceph, with our mark for it: only the storage differs."""

    async def make() -> None:
        disk = f"vms/vm-{uuid}"
        there = ("rbd", "-c", str(other.conf))
        await other.run(*there, "import", str(image), disk)
        mark = json.loads(
            await ours.run("rbd", "-c", str(ours.conf), "image-meta", "get", disk, "metastack_mark")
        )
        mark["ident"] = json.loads(await other.run(*there, "info", disk, "--format", "json"))["id"]
        await other.run(*there, "image-meta", "set", disk, "metastack_mark", json.dumps(mark))

    asyncio.run(make())


def nothing_starts(lab: Lab, uuid: str) -> None:
    """On n3, or anywhere else but where it may be."""
    end = time.monotonic() + WATCHED_S
    while time.monotonic() < end:
        assert pids(lab, uuid) == [], f"booted from another storage's disk\n{lab.seen()}"
        time.sleep(0.2)


def booted_there(lab: Lab) -> int:
    return len(lab.events("n3", "booted"))


def test_a_node_of_another_ceph_never_boots_its_own_disk(
    lab: Lab, other_ceph: MiniCeph, guest_image: Path
) -> None:
    vm = lab.create("apart", "--node", "n1")
    lab.do("vm", "unpin", "apart")
    assert lab.boots("apart") == 1
    ours, host = lab.cluster.ceph, lab.cluster.host("n3")
    assert ours is not None
    copy_of_its_disk(ours, other_ceph, vm["volume_uuid"], guest_image)
    before, session = host.agent_config.read_text(), lab.node("n3")["session"]
    wrong = agent_config(
        host, CONSOLE_PORT, lab.cluster.node_store_settings(host.name), other_ceph.settings("node-n3")
    )
    before_boots = booted_there(lab)
    try:
        host.agent_config.write_text(tomli_w.dumps(wrong))
        host.restart_agent()
        lab.until("n3 is new", lambda: lab.node("n3")["session"] not in (None, session))
        # Only n3 has a place for it now: n2 fences, and takes nothing.
        lab.do("node", "cordon", "n2", "--reason", "test")
        lab.cluster.kill_node("n1")
        lab.until("n1 is fenced", lambda: (lab.node("n1")["fenced_through"] or 0) > vm["session"])
        assert lab.node("n1")["fence"]["by"] == "n2"
        nothing_starts(lab, vm["uuid"])
        lab.do("node", "uncordon", "n2", "--reason", "test")
        lab.until_vm("apart", phase="running", node="n2")
        assert lab.boots("apart") == 2, "not the disk that it had"
        # Its claim deleted while its owner's agent hangs: of all agents only n3's is alive.
        lab.cluster.host("n2").freeze_agent()
        try:
            (running,) = pids(lab, vm["uuid"])
            delete_claim(lab, "apart")
            end = time.monotonic() + WATCHED_S
            while time.monotonic() < end:
                assert pids(lab, vm["uuid"]) == [running], f"a second guest\n{lab.seen()}"
                time.sleep(0.2)
        finally:
            lab.cluster.host("n2").thaw_agent()
        lab.until_vm("apart", phase="running", node="n2")
        assert lab.boots("apart") >= 2, "not the disk that it had"
        said = lab.node("n3")
        assert said["state"] != "ready"
        assert "this node's storage is not the cluster's: fsid is" in said["message"]
        assert booted_there(lab) == before_boots
    finally:
        lab.run("node", "uncordon", "n2", "--reason", "test")
        host.agent_config.write_text(before)
        host.restart_agent()
