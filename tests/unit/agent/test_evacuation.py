"""Drained nodes and cold moves: one at a time, nobody stopped whom nobody would take; who starts after whom."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent_rig import KEYS, Lab, lab_of, vm

from metastack.core.model import ClusterConfig, Ha, Nic, NodeSpec, Phase, PinMove, Placement, VmStatus
from metastack.core.state.codec import decode, encode
from metastack.lab.sim.engine.loop import run

PORT = 5432
MAC = "52:54:00:00:00:07"


def status(lab: Lab, name: str) -> VmStatus | None:
    raw = lab.entry(KEYS.vm_status(vm(name)))
    return decode(VmStatus, raw) if raw else None


def runs(lab: Lab, name: str) -> bool:
    found = status(lab, name)
    return found is not None and found.phase is Phase.RUNNING and lab.where(name) == found.node


async def wish(lab: Lab, node: str, **more: object) -> None:
    await lab.put(KEYS.node_spec(node), encode(NodeSpec(**more)))


def test_a_drained_node_releases_vms_one_by_one(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            for node in ("n2", "n3"):
                await wish(lab, node, cordoned=True)
            names = [f"vm{n}" for n in range(5)]
            for name in names:
                await lab.want(name)
            await lab.until("all on n1", lambda: all(runs(lab, name) for name in names))
            for node in ("n2", "n3"):
                await wish(lab, node)
            await wish(lab, "n1", draining=True)
            down = 0
            while lab.hosts["n1"].running():
                down = max(down, sum(not lab.where(name) for name in names))
                await asyncio.sleep(0.05)
            await lab.until("all elsewhere", lambda: all(runs(lab, name) for name in names))
            assert down == 1
            assert {lab.where(name) for name in names} == {"n2", "n3"}

    run(story())


def test_a_vm_that_no_node_would_take_runs_on(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            await lab.want("pinned", placement=Placement(node="n1"))
            await lab.want("free", placement=Placement(node="n1"))
            await lab.until("both run", lambda: runs(lab, "pinned") and runs(lab, "free"))
            await lab.want("free")
            epoch = status(lab, "pinned").epoch  # type: ignore[union-attr]
            await wish(lab, "n1", draining=True)
            await lab.until("one left", lambda: lab.where("free") == "n2")
            await asyncio.sleep(60)
            assert runs(lab, "pinned") and status(lab, "pinned").epoch == epoch  # type: ignore[union-attr]
            await lab.want("pinned")
            await lab.until("the other too", lambda: lab.where("pinned") == "n2")

    run(story())


def test_a_drain_that_is_called_off_stops_nobody_any_more(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            lab.hosts["n1"].hypervisor.graceful_s = 10.0
            for n in range(3):
                await lab.want(f"vm{n}", placement=Placement(node="n1"))
            await lab.until("all run", lambda: all(runs(lab, f"vm{n}") for n in range(3)))
            for n in range(3):
                await lab.want(f"vm{n}")
            await wish(lab, "n1", draining=True)
            await lab.until(
                "asked", lambda: any(status(lab, f"vm{n}").phase is Phase.STOPPING for n in range(3))
            )
            await wish(lab, "n1")
            await asyncio.sleep(60)
            assert all(runs(lab, f"vm{n}") for n in range(3))
            assert len(lab.hosts["n1"].running()) >= 2

    run(story())


def test_an_agent_that_dies_while_a_vm_leaves(tmp_path: Path) -> None:
    """The guest follows the button after the agent's death: the next one must not take it for its own wish."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            await lab.want("vm1", placement=Placement(node="n1"))
            await lab.until("runs", lambda: runs(lab, "vm1"))
            await lab.want("vm1")
            await wish(lab, "n1", draining=True)
            await lab.until("asked", lambda: status(lab, "vm1").phase is Phase.STOPPING)
            await lab.hosts["n1"].crash()
            await asyncio.sleep(2)
            lab.hosts["n1"].start()
            await lab.until("runs elsewhere", lambda: runs(lab, "vm1") and lab.where("vm1") == "n2")

    run(story())


def test_a_cold_move_and_a_pin_that_waits(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await lab.want("vm1", placement=Placement(node="n1"))
            await lab.until("runs", lambda: runs(lab, "vm1"))
            epoch = status(lab, "vm1").epoch  # type: ignore[union-attr]
            await lab.want("vm1", placement=Placement(node="n2"))
            await asyncio.sleep(40)
            assert lab.where("vm1") == "n1" and status(lab, "vm1").epoch == epoch  # type: ignore[union-attr]
            await wish(lab, "n2", cordoned=True)
            await lab.want("vm1", placement=Placement(node="n2", move=PinMove.COLD))
            await asyncio.sleep(40)
            assert lab.where("vm1") == "n1" and status(lab, "vm1").epoch == epoch  # type: ignore[union-attr]
            await wish(lab, "n2")
            await lab.until("moved", lambda: runs(lab, "vm1") and lab.where("vm1") == "n2")

    run(story())


def test_a_dependent_vm_waits_until_the_port_answers(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            nic = (Nic(bridge="br0", mac=MAC),)
            await lab.want("app", ha=Ha(start_after=("db",)))
            await asyncio.sleep(2)
            # Nobody of that name is wanted, so nobody holds it.
            assert runs(lab, "app")
            await lab.want("web", ha=Ha(start_after=("db2",)))
            before = lab.cluster.revision
            await lab.want("db2", ha=Ha(ready_port=PORT), nics=nic)
            await lab.want("web", ha=Ha(start_after=("db2",)), memory_mib=256)
            await lab.until("db2 runs", lambda: runs(lab, "db2"))
            assert status(lab, "db2").ready is False  # type: ignore[union-attr]
            network = lab.hosts[lab.where("db2")].agent.node.network  # type: ignore[union-attr]
            network.teach(MAC, "10.1.1.1")
            await asyncio.sleep(10)
            assert status(lab, "db2").ready is False  # type: ignore[union-attr]
            network.listening.add(("10.1.1.1", PORT))
            await lab.until("ready", lambda: status(lab, "db2").ready, 10)  # type: ignore[union-attr]
            assert lab.cluster.revision > before

    run(story())


def test_the_gate_holds_until_then(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await lab.want("db", ha=Ha(ready_port=PORT), nics=(Nic(bridge="br0", mac=MAC),))
            await lab.want("web", ha=Ha(start_after=("db",)))
            await lab.until("db runs", lambda: runs(lab, "db"))
            await asyncio.sleep(20)
            assert not lab.where("web")
            network = lab.hosts[lab.where("db")].agent.node.network  # type: ignore[union-attr]
            network.teach(MAC, "10.1.1.1")
            network.listening.add(("10.1.1.1", PORT))
            await lab.until("web runs", lambda: runs(lab, "web"), 10)

    run(story())


def test_more_capacity_in_the_settings_is_used(tmp_path: Path) -> None:
    """VMs that nobody would take are looked at when that changes, not at the next periodic look."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            await lab.put(KEYS.cluster(), encode(ClusterConfig(full_look_s=3600, overcommit_memory=0.1)))
            await lab.want("big", memory_mib=8192)
            await asyncio.sleep(5)
            assert not lab.where("big")
            await lab.put(KEYS.cluster(), encode(ClusterConfig(full_look_s=3600)))
            await lab.until("runs", lambda: runs(lab, "big"), 5)

    run(story())


def test_the_target_stops_fitting_while_the_guest_shuts_down(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            lab.hosts["n1"].hypervisor.graceful_s = 5.0
            await lab.want("vm1", placement=Placement(node="n1"))
            await lab.until("runs", lambda: runs(lab, "vm1"))
            await lab.want("vm1", placement=Placement(node="n2", move=PinMove.COLD))
            await lab.until("asked", lambda: status(lab, "vm1").phase is Phase.STOPPING)  # type: ignore[union-attr]
            await wish(lab, "n2", cordoned=True)
            await lab.until("stopped", lambda: not lab.where("vm1"))
            await lab.until("runs where it was", lambda: runs(lab, "vm1") and lab.where("vm1") == "n1", 20)
            await wish(lab, "n2")
            await lab.until("moved", lambda: runs(lab, "vm1") and lab.where("vm1") == "n2")

    run(story())
