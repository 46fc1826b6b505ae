"""A QEMU that hangs beside its agent's crash; meanwhile, a disk that a tool on its VM's own host holds open.

Both in one test: the gate has patience for 40 s, in which the other story happens on another node.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from e2e_lab import Lab
from test_last_gate import pids

from metastack.lab.dev import proc

pytestmark = [pytest.mark.proof, pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]

WHO = r"its disk is open by \S+:0/\d+ at \S+ \(node n2, and not the VM's own QEMU\)"
WHAT_TO_DO = "close it there; if the client never returns: metastack vm break-lock default/held"


@contextmanager
def qemu_nbd(lab: Lab, node: str, volume_uuid: str) -> Iterator[None]:
    """A disk served by qemu-nbd on a node. To Ceph, ``rbd map`` there is the same: a client at its address."""
    ceph, host = lab.cluster.ceph, lab.cluster.host(node)
    assert ceph is not None
    disk = f"rbd:vms/vm-{volume_uuid}:id=admin:keyring={ceph.admin_keyring}:conf={ceph.conf}"
    socket = lab.cluster.layout.folder / "nbd.sock"
    argv = host.enter("qemu-nbd", "--persistent", "-f", "raw", "-k", str(socket), disk)
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL) as holder:
        try:
            lab.until("it serves", socket.exists, 20)
            yield
        finally:
            for pid in [holder.pid, *(one.pid for one in proc.descendants(holder.pid))]:
                os.kill(pid, signal.SIGTERM)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_hung_guest_beside_a_held_disk(lab: Lab) -> None:
    held = lab.create("held", "--node", "n2")
    lab.do("vm", "stop", "held", "--force")
    with qemu_nbd(lab, "n2", held["volume_uuid"]):
        lab.do("vm", "start", "held", "--no-wait")
        shown = lab.until_vm("held", 30, phase="waiting")
        assert re.match(WHO, shown["message"]), shown["message"]
        assert re.search(WHO, lab.do("vm", "explain", "held"))
        hung_beside_a_crash(lab)
        until_told(lab, held)
    took_s = lab.until("it runs", lambda: lab.vm("held")["phase"] == "running")
    print(f"running {took_s:.1f} s after its disk was let go")
    assert len(pids(lab, held["uuid"])) == 1


def hung_beside_a_crash(lab: Lab) -> None:
    """On n1: what hangs stays what it is, and costs its neighbours nothing."""
    hung, well = (lab.create(name, "--node", "n1") for name in ("hung", "well"))
    (hangs,), (other,) = pids(lab, hung["uuid"]), pids(lab, well["uuid"])
    host, session = lab.cluster.host("n1"), lab.node("n1")["session"]
    with stopped(hangs):
        lab.do("vm", "pause", "hung", "--no-wait")  # an order in flight that nobody answers
        host.restart_agent(signal.SIGKILL)

        def is_back() -> bool:
            node = lab.node("n1")
            return node["session"] not in (None, session) and node["state"] == "ready"

        lab.until("n1 is back", is_back, 45)
        lab.do("vm", "pause", "well")
        lab.do("vm", "resume", "well")
        assert pids(lab, well["uuid"]) == [other]
        lab.create("fresh", "--node", "n1")
        assert lab.vm("fresh")["phase"] == "running"
        assert pids(lab, hung["uuid"]) == [hangs], "booted a second time"
        assert (lab.node("n1")["fenced_through"] or 0) < hung["session"]
    lab.until_vm("hung", phase="paused")
    lab.do("vm", "resume", "hung")
    assert pids(lab, hung["uuid"]) == [hangs]
    assert lab.boots("hung") == 1
    lab.do("vm", "stop", "hung", "--force")
    assert pids(lab, hung["uuid"]) == []


def until_told(lab: Lab, held: dict[str, Any]) -> None:
    """Patience is over: what to do is said, and a living node's client is not shut out."""
    shown = lab.until_vm("held", 60, phase="failed")
    assert WHAT_TO_DO in shown["message"]
    assert WHAT_TO_DO in lab.do("vm", "explain", "held")
    refused = lab.run("vm", "break-lock", "held", "--yes", "--reason", "test")
    assert refused.returncode != 0
    assert "is a client of n2, which is alive: close the disk there" in refused.stderr
    assert pids(lab, held["uuid"]) == []
