"""Another node's guest on this host: left alone, and not beside a node that becomes ready."""

from __future__ import annotations

from pathlib import Path

import msgspec
from agent_rig import KEYS, Host, Lab, lab_of

from metastack.core.model import NodeAlive
from metastack.core.state.codec import decode
from metastack.lab.sim.engine.loop import run


def _alive(lab: Lab, node: str) -> NodeAlive:
    raw = lab.entry(KEYS.node_alive(node))
    return decode(NodeAlive, raw) if raw else NodeAlive(name=node)


def _becomes(host: Host, node: str) -> None:
    """Every domain there is another node's from now on."""
    for uuid, domain in host.hypervisor._domains.items():
        host.hypervisor._domains[uuid] = msgspec.structs.replace(domain, node=node)


def test_a_node_does_not_become_ready_beside_another_nodes_guest(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            await lab.all_ready()
            spec = await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            host = lab.hosts["n1"]
            await host.crash()
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.delete(KEYS.claim(spec.id))
            _becomes(host, "n7")
            uuid = host.hypervisor.active()[0].uuid
            host.start()
            what = f"{uuid} here is the VM default/hello of node n7"
            await lab.until("said", lambda: what in _alive(lab, "n1").message)
            said = _alive(lab, "n1")
            assert not said.ready
            assert "set name = n7 again, drain it (metastack node drain n7 --wait)" in said.message
            assert f"virsh destroy {uuid}, then virsh undefine {uuid}" in said.message
            await host.hypervisor.acquire_host("n7")  # it does not stand in the way of that node's own agent
            await host.hypervisor.release_host()
            assert [d.uuid for d in host.hypervisor.active()] == [uuid], "the stranger was touched"
            host.hypervisor.remove(uuid)
            await lab.until("ready", lambda: _alive(lab, "n1").ready)

    run(story())


def test_a_ready_node_reports_another_nodes_guest(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            await lab.all_ready()
            host = lab.hosts["n1"]
            await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            await lab.until("ready", lambda: _alive(lab, "n1").ready)
            domain = host.hypervisor.active()[0]
            uuid = "22222222-0000-4000-8000-000000000000"
            host.hypervisor._domains[uuid] = msgspec.structs.replace(domain, uuid=uuid, name="moved", node="n7")
            await lab.until("warned", lambda: "of node n7" in "".join(_alive(lab, "n1").warnings), 120)
            assert _alive(lab, "n1").ready
            assert len(host.hypervisor.active()) == 2

    run(story())
