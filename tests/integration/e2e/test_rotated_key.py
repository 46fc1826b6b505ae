"""A cephx key is rotated under a node that runs: its VMs go elsewhere, and no agent is restarted for it."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import struct
import time
from typing import Any

import pytest
from e2e_lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]


NO_STORAGE = "the node cannot reach its storage"


def refused(vm: dict[str, Any], node: str) -> bool:
    if vm["phase"] == "failed":
        return bool(vm["node"] == node)
    return vm["phase"] == "pending" and f"{node}: {NO_STORAGE}" in vm["message"]


def new_key() -> str:
    return base64.b64encode(struct.pack("<HIIH", 1, int(time.time()), 0, 16) + os.urandom(16)).decode()


async def rotate(lab: Lab, user: str) -> str:
    """Give a user another key in Ceph; the text of its key file, which nobody has written yet."""
    ceph = lab.cluster.ceph
    assert ceph is not None
    text = (await ceph.ceph("auth", "get", f"client.{user}")).decode()
    before = next(line.split("=", 1)[1].strip() for line in text.splitlines() if "key =" in line)
    after = text.replace(before, new_key())
    await ceph.ceph("auth", "rm", f"client.{user}")
    await ceph.ceph("auth", "import", "-i", "-", stdin=after.encode())
    return after


def test_a_node_whose_key_was_rotated(lab: Lab) -> None:
    ceph = lab.cluster.ceph
    assert ceph is not None
    lab.until_all_ready()
    victim, *others = sorted(lab.cluster.state.nodes)
    running = lab.create("before", "--node", victim)
    assert running["phase"] == "running"
    session = lab.node(victim)["session"]
    text = asyncio.run(rotate(lab, f"node-{victim}"))
    try:
        for name in others:
            lab.do("node", "cordon", name)
        lab.do("vm", "create", "moved", "--image", "tiny", "--memory", "96MiB", "--no-wait")
        # Either its start there fails, or the node's own look was first: then it takes nothing.
        lab.until("nobody can start it", lambda: refused(lab.vm("moved"), victim))
        tried = lab.vm("moved")["phase"] == "failed"
        for name in others:
            lab.do("node", "uncordon", name)
        found = lab.until_vm("moved", phase="running", within_s=90)
        assert found["node"] in others
        explained = {said["node"]: said for said in lab.json("vm", "explain", "moved")["nodes"]}
        why = "failed to start here" if tried else NO_STORAGE
        assert any(why in reason for reason in explained[victim]["reasons"]), explained[victim]
        warned = json.loads(lab.run("doctor", "--no-storage", "-o", "json").stdout)
        check = "given_back" if tried else "node_warnings"
        assert f"node {victim}" in [f["object"] for f in warned if f["check"] == check], warned
    finally:
        for name in others:
            lab.run("node", "uncordon", name)
        ceph.keyring(f"node-{victim}").write_text(text)

    lab.do("vm", "create", "after", "--image", "tiny", "--memory", "96MiB", "--node", victim, timeout_s=200)
    assert lab.until_vm("after", phase="running", within_s=90)["node"] == victim
    assert lab.boots("after") == 1
    assert lab.node(victim)["session"] == session, "its agent was not restarted, nor its session lost"
    assert lab.vm("before")["epoch"] == running["epoch"], "its guest ran on"
    for name in ("before", "moved", "after"):
        lab.do("vm", "delete", name, "--yes")
