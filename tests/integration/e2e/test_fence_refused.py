"""Ceph refuses a block, or does not answer: no takeover, and everybody who asks is told why."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from typing import Any

import pytest
from e2e_lab import Lab

from metastack.lab.dev.ceph import MiniCeph

pytestmark = [pytest.mark.lab, pytest.mark.ceph, pytest.mark.etcd, pytest.mark.libvirt]


def ceph_of(lab: Lab) -> MiniCeph:
    assert lab.cluster.ceph is not None
    return lab.cluster.ceph


def caps(lab: Lab, node: str) -> dict[str, str]:
    found = json.loads(asyncio.run(ceph_of(lab).ceph("auth", "get", f"client.node-{node}", "-f", "json")))
    return dict(found[0]["caps"])


def set_caps(lab: Lab, node: str, rights: dict[str, str]) -> None:
    flat = [text for pair in rights.items() for text in pair]
    asyncio.run(ceph_of(lab).ceph("auth", "caps", f"client.node-{node}", *flat))


def doctor(lab: Lab) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(lab.run("doctor", "--no-storage", "-o", "json").stdout)
    return found


def told(lab: Lab, victim: str, word: str) -> None:
    """Wherever somebody would look, it is reported."""

    def shown() -> dict[str, Any]:
        return lab.node(victim)["fence"] or {}

    lab.until("node show says why", lambda: word in (shown().get("trouble") or ""), 90)
    assert shown()["state"] == "open"
    assert shown()["intent_at"]
    listed = {view["name"]: view for view in lab.json("fence", "list")}
    assert word in listed[victim]["trouble"]
    first = lab.run("status").stdout.splitlines()[0]
    assert f"node {victim} is not fenced" in first, first
    assert word in first, first
    said = [f["meaning"] for f in doctor(lab) if f["severity"] == "error" and f["object"] == f"node {victim}"]
    assert any(word in meaning for meaning in said), said
    loud = [e for n in lab.cluster.state.nodes for e in lab.events(n, "fence_failed") if e["level"] == "error"]
    assert any(e["victim"] == victim and word in e["error"] for e in loud), loud


def test_users_that_may_not_block(lab: Lab) -> None:
    vm = lab.create("refused")
    assert lab.boots("refused") == 1
    victim = vm["node"]
    others = [name for name in lab.cluster.state.nodes if name != victim]
    before = {name: caps(lab, name) for name in others}
    try:
        for name in others:
            session = lab.node(name)["session"]
            set_caps(lab, name, {**before[name], "mon": "allow r"})
            lab.cluster.host(name).restart_agent()
            lab.until(f"{name} is new", lambda n=name, s=session: lab.node(n)["session"] not in (None, s))
        lab.until_all_ready()
        for name in others:
            lab.until(f"{name} warns", lambda n=name: "may not block" in " ".join(lab.node(n)["warnings"]))
        warned = {f["object"] for f in doctor(lab) if f["check"] == "node_warnings"}
        assert {f"node {name}" for name in others} <= warned
        lab.cluster.kill_node(victim)
        told(lab, victim, "does not allow it")
        assert lab.vm("refused")["node"] == victim, "taken over without a confirmed block"
    finally:
        for name in others:
            set_caps(lab, name, before[name])
            lab.cluster.host(name).restart_agent()
    lab.until_vm("refused", 120, phase="running", node=lambda n: n in others)
    assert lab.boots("refused", 120) == 2


def test_a_monitor_that_hangs(lab: Lab) -> None:
    vm = lab.create("waits")
    assert lab.boots("waits") == 1
    victim = vm["node"]
    pid = int((ceph_of(lab).directory / "run" / "mon.a.pid").read_text())
    assert "mon.a" in ceph_of(lab).status().running
    os.kill(pid, signal.SIGSTOP)
    try:
        lab.cluster.kill_node(victim)
        told(lab, victim, "did not answer in time")
        assert lab.vm("waits")["node"] == victim, "taken over without a confirmed block"
    finally:
        os.kill(pid, signal.SIGCONT)
    lab.until_vm("waits", 120, phase="running", node=lambda n: n != victim)
    assert lab.boots("waits", 120) == 2
