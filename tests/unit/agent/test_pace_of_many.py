"""Agents of a large cluster: sums and lists come less often, and what was not heard is found later.

Three agents under bounds that make three a large cluster: what follows from the size is core/pace's business.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from agent_rig import KEYS, Lab, lab_of

from metastack.core import rate_limits as pace
from metastack.core.model import ClusterConfig
from metastack.core.state.codec import encode
from metastack.lab.sim.engine.loop import run


def lists(lab: Lab) -> Counter[str]:
    """How often each agent lists everything, from now on."""
    seen: Counter[str] = Counter()
    for host in lab.hosts.values():
        assert host.agent is not None
        informer = host.agent.node.informer
        look = informer.look

        async def counting(look=look, node=host.name):
            seen[node] += 1
            await look()

        informer.look = counting  # type: ignore[method-assign]
    return seen


def large(monkeypatch: pytest.MonkeyPatch, lab: Lab, looks: int) -> None:
    """From here on a list is due after a fixed number of looks."""
    agent = lab.hosts["n1"].agent
    assert agent is not None
    records = agent.node.world.count()
    monkeypatch.setattr(pace, "LISTED_A_SECOND", 3 * records / (30 * (looks - 0.5)))


def test_a_large_cluster_lists_less_often_and_looks_as_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await asyncio.sleep(60)
            large(monkeypatch, lab, 10)
            seen, asked = lists(lab), lab.hosts["n2"].agent.node.session  # type: ignore[union-attr]
            shut_out, proofs = asked.shut_out, 0

            async def counted() -> bool:
                nonlocal proofs
                proofs += 1
                return await shut_out()

            asked.shut_out = counted  # type: ignore[method-assign]
            await asyncio.sleep(1500)
            assert all(4 <= seen[node] <= 6 for node in lab.hosts), seen
            assert proofs >= 45, "whether it is shut out of the storage is asked as often as ever"
            seen.clear()
            await lab.put(KEYS.cluster(), encode(ClusterConfig(full_look_s=60)))
            await asyncio.sleep(1500)
            assert all(seen[node] >= 22 for node in lab.hosts), "what somebody set is not changed"

    run(story())


def test_a_later_list_finds_lost_events(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await lab.want("vm0")  # an image without a disk is cleared away
            await asyncio.sleep(60)
            large(monkeypatch, lab, 10)
            for host in lab.hosts.values():
                host.store.lose_next_events()  # type: ignore[union-attr]
            await lab.want("vm1")
            await asyncio.sleep(5)
            assert not lab.where("vm1")
            await lab.until("found by a list", lambda: lab.where("vm1"), 330)

    run(story())


def test_another_etcd_is_noticed_at_the_next_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Restored under its old id at the revision that it had: only the raft term tells, and no watch broke."""

    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await asyncio.sleep(60)
            large(monkeypatch, lab, 100)
            lab.cluster.term -= 1
            agents = [host.agent for host in lab.hosts.values()]
            await lab.until(
                "all notice", lambda: all(agent and agent.node.informer.etcd_untrusted for agent in agents), 31
            )
            seen = lists(lab)
            await asyncio.sleep(95)
            assert all(seen[node] >= 3 for node in lab.hosts), "who believes nobody asks every time"

    run(story())


@pytest.mark.parametrize(("a_second", "least", "most"), [(pace.SUMS_A_SECOND, 20, 60), (0.1, 3, 9)])
def test_sums_are_said_less_often_by_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a_second: float, least: int, most: int
) -> None:
    """Where all nodes say one every 10 s, each of three says one every 30 s."""

    async def story() -> int:
        async with lab_of(tmp_path) as lab:
            await asyncio.sleep(10)

            def said() -> int:
                entries = [lab.cluster.get(KEYS.node_alive(node)) for node in lab.hosts]
                return sum(entry.version for entry in entries if entry is not None)

            before = said()
            for n in range(60):
                await lab.want(f"vm{n}", memory_mib=64)
                await asyncio.sleep(1)
            told = said() - before
            await asyncio.sleep(65)
            for node in lab.hosts:
                mine = lab.hosts[node].agent.node  # type: ignore[union-attr]
                found = mine.world.alive(node)
                assert found is not None and found.ok.vms == mine.allocated()[1], "said in the end"
            return told

    monkeypatch.setattr(pace, "SUMS_A_SECOND", a_second)
    assert least <= run(story()) <= most
