"""The last gate on real parts: what administrators do behind the agents' backs gives no second writer."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from e2e_lab import Lab

from metastack.core.transaction import Delete, Transaction
from metastack.store.etcd.store import EtcdStore

pytestmark = [pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]


TOLD = ("disk_held", "fencing", "fenced", "booted")


def delete_claim(lab: Lab, name: str) -> None:
    """``etcdctl del /metastack/claims/default/NAME``."""

    async def delete() -> None:
        store = EtcdStore(lab.cluster.root_store_settings)
        try:
            gone = Delete(f"/metastack/claims/default/{name}")
            await store.commit(Transaction(name="etcdctl", guards=(), effects=(gone,)))
        finally:
            await store.close()

    asyncio.run(delete())


def said(lab: Lab, node: str, *names: str) -> list[str]:
    return [event["event"] for event in lab.events(node, *names)]


def pids(lab: Lab, uuid: str) -> list[int]:
    """Every QEMU of a VM, on all hosts."""
    found = []
    for node in lab.cluster.state.nodes:
        for process in lab.qemu(node):
            command = Path(f"/proc/{process.pid}/cmdline").read_bytes()
            if uuid.encode() in command:
                found.append(process.pid)
    return found


@pytest.mark.proof
def test_a_claim_deleted_while_its_owners_agent_hangs(lab: Lab) -> None:
    vm = lab.create("orphan", "--node", "n1")
    lab.do("vm", "unpin", "orphan")
    lab.until("its client is noted", lambda: _clients(lab, "n1", vm["uuid"]))
    before = {node: len(said(lab, node, *TOLD)) for node in lab.cluster.state.nodes}
    lab.cluster.host("n1").freeze_agent()
    try:
        delete_claim(lab, "orphan")
        after = lab.until_vm("orphan", 60, phase="running", node=lambda n: n not in (None, "n1"))
        there = after["node"]
        assert lab.node("n1")["fence"]["reason"].startswith("default/orphan: its disk is open by")
        told = said(lab, there, *TOLD)[before[there] :]
        start = told.index("disk_held")
        assert "booted" not in told[start : told.index("fenced", start) if "fenced" in told[start:] else None]
    finally:
        lab.cluster.host("n1").thaw_agent()
    lab.until_all_ready()
    lab.until("one QEMU is left", lambda: len(pids(lab, vm["uuid"])) == 1)


@pytest.mark.proof
def test_libvirtd_loses_a_running_guest(lab: Lab) -> None:
    vm = lab.create("forgotten", "--node", "n2")
    (before,) = pids(lab, vm["uuid"])
    host = lab.cluster.host("n2")
    host.stop("libvirtd", signal.SIGKILL)
    lost = "rm -v /run/libvirt/qemu/ms-default-forgotten-*"
    subprocess.run(host.enter("sh", "-c", lost), check=True, timeout=30, capture_output=True)
    host.start_libvirtd()
    shown = lab.until_vm("forgotten", 60, phase="failed")
    assert "runs on n2, and libvirtd has lost it" in shown["message"]
    end = time.monotonic() + 8
    while time.monotonic() < end:
        assert pids(lab, vm["uuid"]) == [before], "a second QEMU"
        time.sleep(0.2)
    lab.do("vm", "restart", "forgotten", "--force")
    (after,) = pids(lab, vm["uuid"])
    assert after != before


def test_a_lock_by_hand_is_named_and_broken(lab: Lab) -> None:
    vm = lab.create("locked")
    lab.do("vm", "stop", "locked", "--force")
    ceph = lab.cluster.ceph
    assert ceph is not None
    disk = f"vms/vm-{vm['volume_uuid']}"
    rbd = ("rbd", "-c", str(ceph.conf), "--id", "admin", "--keyring", str(ceph.admin_keyring))
    asyncio.run(ceph.run(*rbd, "lock", "add", disk, "maintenance"))
    lab.do("vm", "start", "locked", "--no-wait")
    shown = lab.until_vm("locked", 30, phase="waiting")
    assert re.fullmatch(r"its disk is locked by hand by \S+/\d+ at \S+", shown["message"]), shown["message"]
    assert pids(lab, vm["uuid"]) == []
    refused = lab.run("vm", "break-lock", "locked", "--yes")
    assert refused.returncode == 2
    assert "reason" in refused.stderr
    done = lab.json("vm", "break-lock", "locked", "--yes", "--reason", "nobody knows whose it is")
    assert (done["result"], done["name"]) == ("done", "locked")
    lab.until_vm("locked", 30, phase="running")
    assert lab.run("vm", "break-lock", "locked", "--yes", "--reason", "again").returncode != 0


def test_a_killed_qemu_restarts_before_its_watch_expires(lab: Lab) -> None:
    vm = lab.create("shot", "--node", "n3")
    lab.until("its client is noted", lambda: _clients(lab, "n3", vm["uuid"]))
    assert lab.boots("shot") == 1
    (before,) = pids(lab, vm["uuid"])
    os.kill(before, signal.SIGKILL)
    took_s = lab.until("another QEMU", lambda: pids(lab, vm["uuid"]) not in ([], [before]), 60)
    assert lab.boots("shot") == 2, "the guest came up, so it got the lock"
    assert took_s < 20
    assert "client_evicted" in said(lab, "n3", "client_evicted")


def _clients(lab: Lab, node: str, uuid: str) -> str:
    """Which clients the domain's metadata names."""
    uri = lab.cluster.host(node).libvirt_uri
    argv = ["virsh", "-q", "-c", uri, "metadata", uuid, "urn:metastack:vm:1"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    found = re.search(r'clients="([^"]+)"', done.stdout)
    return found.group(1) if found else ""
