"""A node that lives under a shorter lease than the settings say is not late: it renews."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent_rig import IMAGE, KEYS, lab_of

from metastack.core.model import ClusterConfig, Image, ImageState, NodeAlive, NodeFacts
from metastack.core.state.codec import encode
from metastack.core.transaction import Put, Transaction
from metastack.lab.sim.engine.loop import run


def test_a_fence_does_not_wait_for_it_for_ever(tmp_path: Path) -> None:
    async def renews(lab, lease) -> None:
        while True:
            await asyncio.sleep(1)
            await lab.client.renew(lease)

    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            known = Image(name="debian", uuid=IMAGE, state=ImageState.READY, size_bytes=512)
            await lab.put(KEYS.image("debian"), encode(known))
            await lab.put(KEYS.cluster(), encode(ClusterConfig(lease_ttl_s=20)))
            facts = NodeFacts(name="n9", uuid="x", storage_addresses=("10.0.0.9",), joined="")
            await lab.put(KEYS.node_facts("n9"), encode(facts))
            lease = await lab.client.grant(4)
            alive = Put(KEYS.node_alive("n9"), encode(NodeAlive(name="n9")), leased=True)
            await lab.client.commit(Transaction(name="test", guards=(), effects=(alive,), lease=lease.id))
            renewing = lab.group.create_task(renews(lab, lease))
            await lab.want("v")
            await lab.until("running", lambda: lab.where("v"))
            victim = lab.where("v")
            await lab.hosts[victim].power_cut()
            await lab.until("taken over", lambda: lab.where("v") not in ("", victim))
            renewing.cancel()

    run(story())
