"""A host that shuts down: its agent sees real guests off, on real etcd, Ceph and libvirt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from e2e_lab import Lab

pytestmark = [pytest.mark.etcd, pytest.mark.ceph, pytest.mark.libvirt, pytest.mark.lab]


@pytest.fixture
def two(lab: Lab) -> Iterator[Lab]:
    """A VM that runs on n1 and may run anywhere; n1 is up again at the end."""
    lab.create("one", "--node", "n1", "--network", "none")
    lab.do("vm", "unpin", "one")
    assert lab.boots("one") == 1
    yield lab
    lab.cluster.kill_node("n1")
    lab.cluster.start_node("n1")
    lab.until_all_ready()
    lab.do("config", "set", "on_host_shutdown=release", "--reason", "test")


def policies(lab: Lab) -> list[str]:
    return [event["policy"] for event in lab.events("n1", "host_shutdown")]


def fences(lab: Lab) -> list[tuple[str, int, str]]:
    """Every fence that there was: node, session, moment. What a node does since is another matter."""
    return [(one["name"], one["fenced_through"], one["at"]) for one in lab.json("fence", "list")]


def test_release_starts_the_vm_on_another_node(two: Lab) -> None:
    before = fences(two)
    two.cluster.host("n1").shut_down()
    assert two.until_vm("one", 30, phase="running")["node"] != "n1"
    assert not two.qemu("n1")
    assert policies(two)[-1:] == ["release"]
    assert two.events("n1", "killed")[-1]["why"] == "stopped"  # by itself, when it was asked to
    assert two.boots("one") == 2
    assert fences(two) == before


def test_return_keeps_the_vm_until_the_host_is_back(two: Lab) -> None:
    two.do("config", "set", "on_host_shutdown=return", "--reason", "test")
    before = fences(two)
    two.cluster.host("n1").shut_down()
    assert policies(two)[-1:] == ["return"]
    assert not two.qemu("n1")
    node = two.node("n1")
    assert (node["leaving"], node["returns_within_s"]) == ("return", 600)
    two.cluster.kill_node("n1")
    two.cluster.start_node("n1")
    two.until_vm("one", 60, phase="running", node="n1")
    assert two.boots("one") == 2
    assert fences(two) == before
    assert two.node("n1")["leaving"] is None
