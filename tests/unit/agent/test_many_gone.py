"""Half of a large cluster vanishes at one moment: what that costs each of the others."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest
from agent_rig import KEYS, Lab, lab_of, vm_spec

from metastack.agent.fencing.fencer import _most_within
from metastack.core.model import Claim, ClusterConfig, NodeAlive, NodeFacts
from metastack.core.state.codec import encode
from metastack.core.transaction import Committed, Delete, Put, Transaction
from metastack.lab.sim.engine.loop import run

NODES, GONE, VMS = 1000, 500, 5000


async def commit(lab: Lab, effects: list[Put] | list[Delete], lease: int = 0) -> None:
    for at in range(0, len(effects), 100):
        change = Transaction(name="large", guards=(), effects=tuple(effects[at : at + 100]), lease=lease)
        assert isinstance(await lab.client.commit(change), Committed)


async def large(lab: Lab, names: list[str]) -> None:
    """Nodes without agents, and what they run."""
    lease = (await lab.client.grant(3600)).id
    at, puts = "2026-01-01T00:00:00Z", list[Put]()
    for name in names:
        puts.append(Put(KEYS.node_facts(name), encode(NodeFacts(name=name, uuid=f"uuid-of-{name}", joined=at))))
        alive = NodeAlive(name=name, ready=True, since=at, address="10.9.0.1")
        puts.append(Put(KEYS.node_alive(name), encode(alive), leased=True))
    await commit(lab, puts, lease)
    puts = []
    for n in range(VMS):
        spec = vm_spec(f"vm{n}")
        claim = Claim(
            node=names[n % NODES],
            session=1 << 40,
            uuid=spec.uuid,
            volume_uuid=spec.volume_uuid,
            claim_id=f"{n}",
        )
        puts += [Put(KEYS.vm_spec(spec.id), encode(spec)), Put(KEYS.claim(spec.id), encode(claim))]
    await commit(lab, puts)


def test_considering_many_that_are_gone_costs_little(tmp_path: Path) -> None:
    """Every other node looks at each of them after each fence: none may cost their number once more."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            await lab.put(KEYS.cluster(), encode(ClusterConfig(brake_percent=10)))
            names = [f"x{n:04d}" for n in range(NODES)]
            await large(lab, names)
            agent = lab.hosts["n1"].agent
            assert agent is not None
            await commit(lab, [Delete(KEYS.node_alive(name)) for name in names[:GONE]])
            await agent.node.informer.reached(lab.cluster.revision)
            await asyncio.sleep(1.0)  # the grace, of virtual time
            assert agent.fencer.braked == (
                f"brake: {GONE} of {NODES + 1} nodes vanished within 60 s; nothing is fenced until one returns"
            )
            began_s = time.process_time()
            for name in names[:GONE]:
                assert await agent.fencer.consider(name) == 5.0  # the brake: later
            assert time.process_time() - began_s < 1.0, "5 ms; 6.6 s while each cost their number"

    run(story())


@pytest.mark.parametrize(
    ("times", "most"),
    [([], 0), ([3.0], 1), ([0.0, 60.0], 2), ([0.0, 60.1], 1), ([0.0, 50.0, 70.0, 90.0, 200.0], 3)],
)
def test_the_brake_counts_the_fullest_window(times: list[float], most: int) -> None:
    assert _most_within(times, 60) == most
