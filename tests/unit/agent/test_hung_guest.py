"""A guest whose QEMU is stopped, with an order in flight: it costs nobody else anything."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from agent_rig import KEYS, Host, Lab, lab_of

from metastack.agent.reconcile.in_flight import STOP_S
from metastack.agent.session.session import AWAY_TTL_S
from metastack.core.model import Placement, VmSpec
from metastack.core.state.codec import encode
from metastack.lab.sim.engine.loop import run


async def hung(lab: Lab) -> tuple[Host, VmSpec]:
    """A node with two guests, of which one hangs with a pause in flight."""
    spec = await lab.want("hung", placement=Placement(node="n1"))
    await lab.want("well", placement=Placement(node="n1"))
    host = lab.hosts["n1"]
    await lab.until("both run", lambda: len(host.running()) == 2)
    host.hypervisor.patience_s = 10.0
    host.hypervisor.hangs(spec.uuid)
    claim = lab.cluster.get(KEYS.claim(spec.id))
    assert claim is not None
    await lab.put(KEYS.vm_spec(spec.id), encode(msgspec.structs.replace(spec, paused_epoch=claim.mod_revision)))
    await lab.until("a pause is in flight", lambda: host.hypervisor.in_flight(spec.uuid))
    return host, spec


def test_a_stopped_agent_leaves_a_long_lease(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host, _ = await hung(lab)
            assert 3 * STOP_S < AWAY_TTL_S
            async with asyncio.timeout(3 * STOP_S):
                await host.stop()
            host.start()
            await lab.all_ready()
            assert len(host.running()) == 2

    run(story())


def test_a_revoked_lease_does_not_have_its_node_fenced(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host, _ = await hung(lab)
            entry = lab.cluster.get(KEYS.node_alive("n1"))
            assert entry is not None
            lab.cluster.revoke(entry.lease)
            await asyncio.sleep(1)
            await lab.all_ready()
            assert lab.cluster.get(KEYS.fence("n1")) is None
            assert len(host.running()) == 2

    run(story())


def test_others_are_started_stopped_and_deleted_beside_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host, spec = await hung(lab)
            more = [await lab.want(f"more{n}", placement=Placement(node="n1")) for n in range(4)]
            await lab.until("they run", lambda: len(host.running()) == 6, 10)
            for other in more:
                await lab.delete(KEYS.vm_spec(other.id))
            await lab.until("they are gone", lambda: len(host.running()) == 2, 20)
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.until("so is it", lambda: host.running() == ["default/well"], 60)

    run(story())
