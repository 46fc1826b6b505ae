"""A domain of ours whose metadata cannot be read: said aloud, left alone, and its VM never runs twice."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
import pytest
from agent_rig import KEYS, Lab, lab_of, vm

from metastack.core.domains import DomainState
from metastack.core.model import NodeAlive, Power, VmSpec, VmStatus
from metastack.core.state.codec import decode, encode
from metastack.hypervisor.libvirt.domain_xml import parse_metadata
from metastack.lab.sim.engine.loop import run


async def _damaged(lab: Lab) -> tuple[VmSpec, str]:
    spec = await lab.want("hello")
    await lab.until("running", lambda: lab.where("hello"))
    node = lab.where("hello")
    lab.hosts[node].hypervisor.damage(spec.uuid)
    return spec, node


def _alive(lab: Lab, node: str) -> list[str]:
    return [d.uuid for d in lab.hosts[node].hypervisor.active()]


@pytest.mark.parametrize("wish", ["off", "deleted", "restart"])
def test_it_is_left_alone_and_its_claim_is_kept(tmp_path: Path, wish: str) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec, node = await _damaged(lab)
            if wish == "deleted":
                await lab.delete(KEYS.vm_spec(spec.id))
            elif wish == "off":
                await lab.put(KEYS.vm_spec(spec.id), encode(msgspec.structs.replace(spec, power=Power.OFF)))
            else:
                await lab.put(KEYS.vm_spec(spec.id), encode(msgspec.structs.replace(spec, run=2)))
            await asyncio.sleep(120)
            assert _alive(lab, node) == [spec.uuid], "nobody killed it"
            assert lab.entry(KEYS.claim(vm("hello"))) is not None, "nor gave its claim up while it may write"
            assert sum(len(host.hypervisor.active()) for host in lab.hosts.values()) == 1

    run(story())


def test_it_is_said_by_the_node_and_by_the_vm(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec, node = await _damaged(lab)
            await asyncio.sleep(120)
            alive = decode(NodeAlive, lab.entry(KEYS.node_alive(node)) or b"")
            assert [w for w in alive.warnings if spec.uuid in w and "unreadable" in w]
            status = decode(VmStatus, lab.entry(KEYS.vm_status(vm("hello"))) or b"")
            assert "unreadable" in status.message
            await lab.hosts[node].hypervisor.kill(spec.uuid)
            await lab.until("booted anew", lambda: lab.where("hello") == node, 120)
            await asyncio.sleep(120)
            alive = decode(NodeAlive, lab.entry(KEYS.node_alive(node)) or b"")
            assert not [w for w in alive.warnings if "unreadable" in w]

    run(story())


def test_a_fenced_node_does_not_lift_its_block_over_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec, node = await _damaged(lab)
            host = lab.hosts[node]
            await host.crash()
            others = [h for h in lab.hosts.values() if h.name != node]
            await lab.until("taken over", lambda: [h for h in others if h.running()], 60)
            assert _alive(lab, node) == [spec.uuid]
            host.start()
            await lab.all_ready()
            assert _alive(lab, node) == [], "shut out of its disk, and its VM runs elsewhere"

    run(story())


def test_a_restarted_agent_adopts_the_claim(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            spec, node = await _damaged(lab)
            await lab.hosts[node].stop()
            lab.hosts[node].start()
            await lab.all_ready()
            await asyncio.sleep(60)
            assert _alive(lab, node) == [spec.uuid]

    run(story())


@pytest.mark.parametrize(
    ("text", "managed", "damaged"),
    [
        (None, False, False),
        ("", False, False),
        ("<vm", False, True),
        ("<other/>", False, True),
        ('<vm project="default" name="A b" session="1"/>', False, True),
        ('<vm project="default" name="a" session="x"/>', False, True),
        ('<vm project="default" name="a" session="1" epoch="2" run="1"/>', True, False),
    ],
)
def test_what_counts_as_damaged(text: str | None, managed: bool, damaged: bool) -> None:
    found = parse_metadata("00000000-0000-4000-8000-00000000000a", "x", text, DomainState.RUNNING)
    assert (found.managed, found.damaged) == (managed, damaged)
