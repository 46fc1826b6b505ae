"""VMs that leave their node, VMs that wait for another's service: on real etcd, Ceph, libvirt and guests."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from e2e_lab import Lab

pytestmark = [pytest.mark.etcd, pytest.mark.ceph, pytest.mark.libvirt, pytest.mark.lab]

PORT = 5432


def test_a_drained_node_and_a_cold_move(lab: Lab) -> None:
    for name in ("one", "two"):
        lab.create(name, "--node", "n1", "--network", "none")
        lab.do("vm", "unpin", name)
    assert {lab.boots("one"), lab.boots("two")} == {1}
    lab.do("node", "drain", "n1", "--wait", "--yes", "--timeout", "120")
    places = {name: lab.until_vm(name, 30, phase="running")["node"] for name in ("one", "two")}
    assert "n1" not in places.values()
    assert not lab.qemu("n1")
    assert {lab.boots("one"), lab.boots("two")} == {2}, "not the same disks"
    lab.do("node", "undrain", "n1")
    lab.do("vm", "move", "one", "n1", "--cold")
    lab.until_vm("one", 60, phase="running", node="n1")
    assert lab.boots("one") == 3
    assert lab.vm("two")["node"] == places["two"]


@pytest.fixture
def reachable(lab: Lab) -> Iterator[Lab]:
    """Nodes with an address of their own in the guests' network, as they need it to ask a guest's port."""
    told = []
    for number, node in enumerate(sorted(lab.cluster.state.nodes)):
        init = lab.cluster.init(node)
        assert init is not None and lab.cluster.fabric is not None
        address = f"{lab.cluster.fabric.subnets.guests.network_address + 240 + number}/24"
        inside = ("nsenter", f"--net=/proc/{init.pid}/ns/net", "--", "ip", "address")
        subprocess.run([*inside, "add", address, "dev", "br0"], check=True, timeout=20)
        told.append([*inside, "del", address, "dev", "br0"])
    yield lab
    for command in told:
        subprocess.run(command, check=True, timeout=20)


def test_a_dependent_vm_waits_for_the_services_port(reachable: Lab) -> None:
    lab = reachable
    lab.create("db", "--ready-port", str(PORT))
    lab.do("vm", "create", "app", "--image", "tiny", "--memory", "96MiB", "--start-after", "db", "--no-wait")
    lab.until_vm("db", 60, phase="running", ips=lambda ips: bool(ips))
    assert lab.boots("db") == 1
    assert lab.vm("app")["phase"] == "pending", "it did not wait"
    lab.console("db", f"while true; do nc -l -p {PORT} </dev/null; done &", 3.0)
    lab.until_vm("app", 60, phase="running")
