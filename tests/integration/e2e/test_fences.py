"""Fences on the real cluster: by hand over the brake, a late one on a node that is back, lifted by an admin."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from e2e_lab import Lab

pytestmark = [pytest.mark.proof, pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]


def test_brake_fence_by_hand_receipt_and_doctor(lab: Lab) -> None:
    both = ("n1", "n2")
    vms = {node: lab.create(f"held-{node}", "--node", node) for node in both}
    before = {node: lab.node(node)["fenced_through"] for node in both}
    with ThreadPoolExecutor(2) as at_once:
        list(at_once.map(lab.cluster.kill_node, both))
    lab.until("both are lost", lambda: {lab.node(node)["state"] for node in both} == {"lost"})
    lab.until("the brake is said", lambda: "brake: 2 of 3" in lab.run("status").stdout.splitlines()[0])
    assert lab.node("n3")["brake"].startswith("brake: 2 of 3")
    # Their leases end up to TTL/4 + 0.5 s apart, the grace is 0.5 s: the first may have been fenced already.
    held = [node for node in both if lab.node(node)["fenced_through"] == before[node]]
    assert held, "the brake held nobody"
    node = held[0]
    alive = lab.run("node", "fence", "n3", "--yes", "--reason", "test")
    assert alive.returncode == 4, alive
    view = json.loads(
        lab.do("node", "fence", node, "--yes", "--reason", "its plug is in my hand", "-o", "json")
    )
    assert (view["state"], view["by"], view["method"]) == ("fenced", "n3", "ceph-blocklist")
    assert view["reason"] == "its plug is in my hand"
    assert view["osd_epoch"] > 0
    assert view["addresses"] == lab.node(node)["storage_addresses"]
    assert view["fenced_through"] > vms[node]["session"]
    assert lab.json("node", "show", node)["fence"] == lab.json("fence", "show", node)
    found = lab.run("doctor", "-o", "json")
    assert found.returncode == 1
    checks = {(f["check"], f["object"]) for f in json.loads(found.stdout) if f["severity"] == "error"}
    assert ("brake", "cluster") in checks, found.stdout
    assert "fence_blocked" not in {check for check, _ in checks}
    for node in both:
        lab.cluster.start_node(node)
    lab.until_all_ready()
    for vm in vms.values():
        lab.until_vm(vm["name"], phase="running")
    after = json.loads(lab.run("doctor", "-o", "json").stdout)
    assert [f for f in after if f["severity"] == "error"] == []


def test_a_late_fence_of_a_node_that_is_back(lab: Lab) -> None:
    vm = lab.create("late", "--node", "n2")
    assert lab.boots("late") == 1
    ceph = lab.cluster.ceph
    assert ceph is not None
    session = lab.node("n2")["session"]
    (address,) = lab.node("n2")["storage_addresses"]
    asyncio.run(ceph.ceph("osd", "blocklist", "add", f"{address}:0/0", "3600"))
    took_s = lab.until("it has another session", lambda: lab.node("n2")["session"] not in (None, session), 90)
    lab.until_all_ready()
    after = lab.until_vm("late", phase="running", session=lambda s: s != session)
    print(f"new session {took_s:.1f} s after the block")
    assert after["epoch"] >= vm["epoch"]
    listed = asyncio.run(ceph.ceph("osd", "blocklist", "ls"))
    assert f"{address}:0/0".encode() not in listed
    assert lab.boots("late") == 2, "killed, and booted again from its disk"


def test_unfence_needs_an_admin_and_a_node_that_is_gone(lab: Lab) -> None:
    ceph = lab.cluster.ceph
    assert ceph is not None
    (address,) = lab.node("n3")["storage_addresses"]
    refused = lab.run("node", "unfence", "n3", "--yes", "--reason", "test", "-o", "json")
    assert refused.returncode == 4, refused
    lab.cluster.kill_node("n3")
    lab.until("n3 is lost", lambda: lab.node("n3")["state"] == "lost")
    lab.do("node", "fence", "n3", "--yes", "--reason", "sold")
    denied = lab.run("node", "unfence", "n3", "--yes", "--reason", "sold", "-o", "json")
    assert denied.returncode == 6, denied
    assert "--keyring" in json.loads(denied.stderr)["error"]["hint"]
    assert lab.json("fence", "show", "n3")["state"] == "fenced"
    admin = ("--user", "admin", "--keyring", str(ceph.admin_keyring))
    view = json.loads(lab.do("node", "unfence", "n3", "--yes", "--reason", "sold", *admin, "-o", "json"))
    assert view["state"] == "unblocked"
    assert f"{address}:0/0".encode() not in asyncio.run(ceph.ceph("osd", "blocklist", "ls"))
    wide = json.loads(lab.run("doctor", "-o", "json", *admin).stdout)
    assert "storage_rights" in {f["check"] for f in wide}
    own = json.loads(lab.run("doctor", "-o", "json").stdout)
    assert "storage_rights" not in {f["check"] for f in own}
    lab.cluster.start_node("n3")
    lab.until_all_ready()
    assert lab.node("n3")["storage_addresses"] == [address]
