"""Whose business a VM is: heads, deaf heads, and what an event costs those who have nothing to do with it."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

from agent_rig import KEYS, Lab, lab_of, vm

from metastack.core.model import Claim, ClusterConfig, NodeAlive
from metastack.core.placement import HEAD
from metastack.core.state.codec import decode, encode
from metastack.core.state.keys import Kind
from metastack.core.transaction import Lost, Transaction
from metastack.lab.sim.engine.loop import run


def looks(lab: Lab) -> Counter[tuple[str, str]]:
    """How often each node looks at each VM, from now on."""
    seen: Counter[tuple[str, str]] = Counter()
    for host in lab.hosts.values():
        assert host.agent is not None
        reconciler = host.agent._reconciler
        reconcile = reconciler.reconcile

        async def counting(one, reconcile=reconcile, node=host.name):
            seen[node, one.name] += 1
            return await reconcile(one)

        reconciler.reconcile = counting  # type: ignore[method-assign]
    return seen


def alive(lab: Lab, node: str) -> NodeAlive:
    raw = lab.entry(KEYS.node_alive(node))
    assert raw is not None
    return decode(NodeAlive, raw)


def test_a_deaf_head_delays_a_vm_only(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=HEAD + 3) as lab:
            await lab.put(KEYS.cluster(), encode(ClusterConfig(full_look_s=3600)))
            await lab.want("probe", power="off")
            await asyncio.sleep(1)
            spec = await lab.want("vm1")
            await lab.until("runs", lambda: lab.where("vm1"))
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.until("gone", lambda: not lab.where("vm1") and not lab.entry(KEYS.claim(vm("vm1"))))
            # The same VM again: the same head, and all of it is deaf now.
            engine = lab.hosts["n1"].agent.node.engine  # type: ignore[union-attr]
            head = engine.head(spec, HEAD)
            for name in head:
                lab.hosts[name].store.deafen()  # type: ignore[union-attr]
            await lab.want("vm1")
            took_s = await lab.until("runs all the same", lambda: lab.where("vm1"), 5)
            assert lab.where("vm1") not in head
            assert took_s < 1.5

    run(story())


def test_an_event_costs_nothing_where_it_has_no_business(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=HEAD + 4) as lab:
            await lab.put(KEYS.cluster(), encode(ClusterConfig(full_look_s=3600)))
            await asyncio.sleep(2)
            seen = looks(lab)
            for n in range(20):
                await lab.want(f"vm{n}")
            await lab.until("all run", lambda: sum(len(h.running()) for h in lab.hosts.values()) == 20)
            await asyncio.sleep(5)
            for n in range(20):
                name = f"vm{n}"
                owner = decode(Claim, lab.entry(KEYS.claim(vm(name))) or b"").node
                busy = {node for node, one in seen if one == name}
                assert len(busy) <= HEAD, (name, busy)
                assert all(seen[node, name] <= 3 for node in busy - {owner}), seen
            for host in lab.hosts.values():
                assert host.agent is not None
                kept = {one.name for one in host.agent.node.memory.vms}
                assert kept == {one.split("/")[1] for one in host.running()}, "it remembers what is not its own"

    run(story())


def test_a_burst_is_few_announcements(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            await asyncio.sleep(10)
            before = {node: lab.cluster.get(KEYS.node_alive(node)).version for node in lab.hosts}  # type: ignore[union-attr]
            for n in range(30):
                await lab.want(f"vm{n}", memory_mib=64)
                await asyncio.sleep(0.2)
            await asyncio.sleep(6)
            for node, host in lab.hosts.items():
                entry = lab.cluster.get(KEYS.node_alive(node))
                assert entry is not None
                assert entry.version - before[node] <= 4
                assert alive(lab, node).vms == len(host.running())

    run(story())


def test_a_node_without_storage_takes_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            lab.pool.partition(lab.hosts["n1"].address)
            await lab.until("n1 says so", lambda: not alive(lab, "n1").storage_ok, 180)
            for n in range(4):
                await lab.want(f"vm{n}")
            await lab.until("all on n2", lambda: len(lab.hosts["n2"].running()) == 4, 20)
            lab.pool.heal(lab.hosts["n1"].address)
            await lab.until("n1 is well again", lambda: alive(lab, "n1").storage_ok, 60)

    run(story())


def test_a_node_in_a_burst_is_not_called_deaf(tmp_path: Path) -> None:
    """All its claims take longer than the second in rank waits: that one leaves them to it all the same."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            await lab.put(KEYS.cluster(), encode(ClusterConfig(overcommit_cpu=16.0)))
            for host in lab.hosts.values():
                assert host.store is not None
                commit = host.store.commit

                async def slow(change: Transaction, commit=commit):
                    if change.name == "claim":
                        await asyncio.sleep(0.02)  # one of them is below the 30 ms of a rank
                    return await commit(change)

                host.store.commit = slow  # type: ignore[method-assign]
            apply, lost = lab.cluster.apply, []

            def counting(change: Transaction):
                outcome = apply(change)
                if change.name == "claim" and isinstance(outcome, Lost):
                    lost.append(change)
                return outcome

            lab.cluster.apply = counting  # type: ignore[method-assign]
            await asyncio.gather(*(lab.want(f"vm{n}", memory_mib=16) for n in range(240)))
            await lab.until("all are claimed", lambda: len(lab.cluster.under(KEYS.prefix(Kind.CLAIM))) == 240)
            assert not lost
            engine = lab.hosts["n1"].agent.node.engine  # type: ignore[union-attr]
            assert not engine.misses.count, "somebody was taken for deaf"

    run(story())
