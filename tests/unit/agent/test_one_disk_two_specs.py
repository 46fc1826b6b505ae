"""Two specs of two projects that name one disk, written at one moment: only one guest is ever started on it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent_rig import KEYS, lab_of, vm_spec

from metastack.core.model import Placement, VmStatus
from metastack.core.state.codec import decode, encode
from metastack.core.state.keys import Kind
from metastack.core.transaction import Put, Transaction
from metastack.lab.sim.engine.loop import run


def test_two_claims_of_one_disk_at_once_start_one_guest(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            one = vm_spec("one", placement=Placement(node="n1"))
            two = vm_spec("two", project="other", volume_uuid=one.volume_uuid, placement=Placement(node="n2"))
            puts = tuple(Put(KEYS.vm_spec(spec.id), encode(spec)) for spec in (one, two))
            await lab.client.commit(Transaction(name="test", guards=(), effects=puts))
            seen = 0
            for _ in range(600):
                await asyncio.sleep(0.05)
                seen = max(seen, sum(len(host.hypervisor.active()) for host in lab.hosts.values()))
            claims = lab.cluster.under(KEYS.prefix(Kind.CLAIM))
            statuses = [decode(VmStatus, e.value) for e in lab.cluster.under(KEYS.prefix(Kind.VM_STATUS))]
            assert len(claims) == 2, "both were claimed before either node saw the other's claim"
            assert seen == 1
            assert [status for status in statuses if "belongs to" in status.message]

    run(story())
