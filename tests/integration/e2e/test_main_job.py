"""The main job on real parts: VMs that live, and survive what happens to their node."""

from __future__ import annotations

import os
import re
import signal
import time

import pytest
from e2e_lab import Lab

pytestmark = [pytest.mark.lab, pytest.mark.etcd, pytest.mark.ceph, pytest.mark.libvirt]


def pids(lab: Lab) -> dict[str, list[int]]:
    return {node: sorted(p.pid for p in lab.qemu(node)) for node in lab.cluster.state.nodes}


def test_create_console_addresses_and_delete(lab: Lab) -> None:
    one = lab.create("one", "--node", "n1", "--label", "tier=web")
    two = lab.create("two", "--node", "n2")
    assert (one["phase"], one["node"], one["labels"]) == ("running", "n1", {"tier": "web"})
    assert "GUEST" in lab.console("one", "", 20, "GUEST READY") or lab.boots("one") == 1
    ip = lab.until_vm("two", ips=bool)["ips"][0]
    lab.until_vm("one", ips=bool)
    # Guests of different nodes reach each other.
    said = lab.console("one", f"ping -c 1 -W 5 {ip} && echo REACHED=$((40+2))", 30, "REACHED=42")
    assert "REACHED=42" in said, said
    lab.do("vm", "delete", "one", "--yes")
    assert lab.vm("one") == {}
    lab.until("its disk is gone", lambda: one["volume_uuid"] not in lab.volumes())
    assert two["volume_uuid"] in lab.volumes()
    assert len(lab.qemu("n1")) == 0
    assert len(lab.qemu("n2")) == 1


@pytest.mark.proof
def test_power_cut_takeover_and_return(lab: Lab) -> None:
    vm = lab.create("hello")
    assert lab.boots("hello") == 1
    first = vm["node"]
    lab.cluster.kill_node(first)
    after = lab.until_vm("hello", 30, phase="running", node=lambda n: n != first)
    assert after["epoch"] > vm["epoch"]
    assert lab.boots("hello") == 2, "not the same disk"
    fence = lab.node(first)
    assert fence["state"] == "lost" and fence["fenced_through"] >= vm["session"]
    lab.cluster.start_node(first)
    lab.until_all_ready()
    assert lab.vm("hello")["epoch"] == after["epoch"], "a node that returns moves nothing"


def test_agents_come_and_go_and_no_guest_stops(lab: Lab) -> None:
    for node in lab.cluster.state.nodes:
        lab.create(f"on-{node}", "--node", node)
    before = pids(lab)
    epochs = {vm["name"]: vm["epoch"] for vm in lab.json("vm", "list")}
    for node in lab.cluster.state.nodes:
        how = signal.SIGKILL if node == "n1" else signal.SIGTERM
        session = lab.node(node)["session"]
        lab.cluster.host(node).restart_agent(how)
        lab.until(
            f"{node} has a new session", lambda n=node, s=session: lab.node(n)["session"] not in (None, s)
        )
        lab.until_all_ready()
        lab.until_vm(f"on-{node}", phase="running", session=lab.node(node)["session"])
    assert pids(lab) == before
    assert {vm["name"]: vm["epoch"] for vm in lab.json("vm", "list")} == epochs


def test_libvirtd_dies_and_the_guest_is_still_ours(lab: Lab) -> None:
    lab.create("steady", "--node", "n2")
    before = pids(lab)
    lab.cluster.host("n2").stop("libvirtd", signal.SIGKILL)
    lab.cluster.host("n2").start_libvirtd()
    lab.until("the agent is connected again", lambda: lab.events("n2", "libvirtd_reconnected"))
    assert pids(lab) == before
    lab.do("vm", "stop", "steady", "--force")
    assert lab.until_vm("steady", phase="stopped")["node"] is None


@pytest.mark.proof
def test_etcd_outage_of_a_minute_costs_nothing(lab: Lab) -> None:
    for number in range(3):
        lab.create(f"vm{number}")
    before = pids(lab)
    epochs = {vm["name"]: vm["epoch"] for vm in lab.json("vm", "list")}
    lab.cluster.stop_etcd("e1", signal.SIGKILL)
    end = time.monotonic() + 60
    while time.monotonic() < end:
        assert pids(lab) == before
        time.sleep(1)
    down = lab.run("vm", "list", timeout_s=10)
    assert down.returncode == 7, down.stderr
    lab.cluster.start_etcd("e1")
    lab.until_all_ready()
    lab.until("all adopted", lambda: {v["phase"] for v in lab.json("vm", "list")} == {"running"})
    assert pids(lab) == before
    assert {vm["name"]: vm["epoch"] for vm in lab.json("vm", "list")} == epochs


def test_a_qemu_that_dies_is_restarted_and_backs_off(lab: Lab) -> None:
    vm = lab.create("frail")
    waits = []
    for crash in range(1, 4):
        victim = lab.qemu(vm["node"])[0]
        victim_gone = time.monotonic()
        assert victim.pid > 1
        os.kill(victim.pid, signal.SIGKILL)
        shown = lab.until_vm("frail", 60, crashes=crash, phase="running")
        waits.append(time.monotonic() - victim_gone)
        assert (shown["node"], shown["epoch"]) == (vm["node"], vm["epoch"])
    assert waits[2] > waits[0] + 2, waits
    assert re.search("crash", lab.vm("frail")["message"])


def test_a_guest_that_powers_itself_off_stays_off(lab: Lab) -> None:
    vm = lab.create("tired")
    assert lab.boots("tired") == 1
    lab.console("tired", "poweroff -f", 10)
    shown = lab.until_vm("tired", phase="stopped", node=None)
    assert shown["power"] == "on" and "start" in shown["message"]
    lab.cluster.kill_node(vm["node"])
    lab.until("it is lost", lambda: lab.node(vm["node"])["state"] == "lost")
    time.sleep(5)  # the others had every chance to start it
    assert lab.vm("tired")["phase"] == "stopped"
    lab.do("vm", "start", "tired")
    assert lab.boots("tired") == 2


@pytest.mark.proof
def test_deleted_and_created_again_while_agents_are_down(lab: Lab) -> None:
    old = lab.create("phoenix")
    for node in lab.cluster.state.nodes:
        lab.cluster.host(node).stop_agent(signal.SIGKILL)
    lab.do("vm", "delete", "phoenix", "--yes", "--no-wait")
    lab.do("vm", "create", "phoenix", "--image", "tiny", "--memory", "96MiB", "--no-wait")
    for node in lab.cluster.state.nodes:
        lab.cluster.host(node).start_agent()
    new = lab.until_vm("phoenix", 90, phase="running", uuid=lambda u: u != old["uuid"])
    assert lab.boots("phoenix") == 1, "the new VM has a new disk"
    lab.until("the old disk is gone", lambda: old["volume_uuid"] not in lab.volumes())
    assert new["volume_uuid"] in lab.volumes()
    assert sum(len(found) for found in pids(lab).values()) == 1


def test_a_paused_vm_of_a_lost_node_runs_again(lab: Lab) -> None:
    vm = lab.create("sleeper")
    lab.do("vm", "pause", "sleeper")
    assert lab.vm("sleeper")["phase"] == "paused"
    lab.cluster.kill_node(vm["node"])
    after = lab.until_vm("sleeper", 30, phase="running", node=lambda n: n != vm["node"])
    assert "paused" in after["message"]


@pytest.mark.proof
def test_a_frozen_agent_is_fenced_and_its_guest_cannot_write(lab: Lab) -> None:
    vm = lab.create("frozen")
    assert lab.boots("frozen") == 1
    host = lab.cluster.host(vm["node"])
    host.freeze_agent()
    after = lab.until_vm("frozen", 30, phase="running", node=lambda n: n != vm["node"])
    assert lab.boots("frozen") == 2
    assert lab.qemu(vm["node"]), "its QEMU lives on, shut out of the storage"
    host.thaw_agent()
    lab.until("the old guest is killed", lambda: not lab.qemu(vm["node"]), 40)
    lab.until_all_ready()
    assert lab.vm("frozen")["epoch"] == after["epoch"]


@pytest.mark.proof
def test_cut_from_etcd_only(lab: Lab) -> None:
    vm = lab.create("island")
    lab.cluster.cut(vm["node"], "etcd")
    after = lab.until_vm("island", 30, phase="running", node=lambda n: n != vm["node"])
    lab.until(
        "storage stops the old guest, its agent kills it", lambda: len(lab.events(vm["node"], "session_lost"))
    )
    lab.cluster.heal(vm["node"])
    lab.until("the old guest is killed", lambda: not lab.qemu(vm["node"]), 40)
    lab.until_all_ready()
    assert lab.vm("island")["epoch"] == after["epoch"]


def test_stop_start_restart_pause_resume(lab: Lab) -> None:
    lab.create("busy")
    assert lab.boots("busy") == 1
    lab.do("vm", "restart", "busy")
    assert lab.boots("busy") == 2
    lab.do("vm", "pause", "busy")
    lab.do("vm", "resume", "busy")
    lab.do("vm", "stop", "busy")
    shown = lab.vm("busy")
    assert (shown["phase"], shown["node"], shown["power"]) == ("stopped", None, "off")
    lab.do("vm", "start", "busy")
    assert lab.boots("busy") == 3


def test_one_create_is_at_most_five_write_transactions(lab: Lab) -> None:
    def revision() -> int:
        return lab.keys("/metastack/config/")[0]

    def settled() -> bool:
        before = revision()
        time.sleep(2.5)
        return revision() == before

    lab.until("nothing is written", settled, 60)
    before = revision()
    lab.create("counted", "--network", "none")
    # The spec, the claim, that the disk was made, that the guest boots, that it runs.
    assert revision() - before <= 5
