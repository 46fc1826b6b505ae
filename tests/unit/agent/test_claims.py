"""Claims on their way: capacity set aside, several in one transaction, group versions."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest
from agent_rig import KEYS, Lab, lab_of, vm, vm_spec

from metastack.agent.reconcile.claim_batch import ClaimBatch
from metastack.core.model import (
    Claim,
    ClusterConfig,
    GroupTerm,
    Ha,
    NodeSpec,
    Phase,
    Placement,
    VmStatus,
    Volume,
)
from metastack.core.protocol.rule_versions import RULE_VERSION, given
from metastack.core.state.codec import decode, encode
from metastack.core.state.keys import Kind
from metastack.core.transaction import Put, Transaction
from metastack.lab.sim.engine.loop import run
from metastack.ports import Refused, Unavailable, UnknownOutcome

APART = Placement(anti_affinity=(GroupTerm(labels={"app": "db"}, topology="zone"),))
ON_ITS_OWN = Placement(anti_affinity=(GroupTerm(labels={"app": "db"}, topology="node"),))


def listen(lab: Lab) -> list[tuple[Transaction, bool]]:
    """Every transaction from now on, and whether it was committed."""
    heard: list[tuple[Transaction, bool]] = []
    apply = lab.cluster.apply

    def listening(change: Transaction):
        before = lab.cluster.revision
        outcome = apply(change)
        heard.append((change, lab.cluster.revision > before))
        return outcome

    lab.cluster.apply = listening  # type: ignore[method-assign]
    return heard


def claimed_by(lab: Lab) -> dict[str, str]:
    entries = lab.cluster.under(KEYS.prefix(Kind.CLAIM))
    return {entry.key.rsplit("/", 1)[1]: decode(Claim, entry.value).node for entry in entries}


def running(lab: Lab, count: int) -> bool:
    return sum(len(host.running()) for host in lab.hosts.values()) == count


async def zones(lab: Lab, **of: str) -> None:
    for node, zone in of.items():
        await lab.put(KEYS.node_spec(node), encode(NodeSpec(labels={"zone": zone})))


def test_a_stale_view_reserves_no_capacity(tmp_path: Path) -> None:
    """Another step of it was let through before: what it claimed last is neither reserved nor seen then."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            assert lab.hosts["n1"].agent is not None
            node, wanted = lab.hosts["n1"].agent.node, vm_spec("vm1", memory_mib=64)
            claims = ClaimBatch(node, lambda vm: None)
            node.wrote = node.world.revision + 1
            with pytest.raises(Unavailable, match="behind its own last change"):
                claims.reserve(wanted.id, wanted)
            node.wrote = node.world.revision
            with pytest.raises(Refused, match="is not pending"):  # it is looked at again: there is no such VM
                claims.reserve(wanted.id, wanted)

    run(story())


def test_a_burst_goes_in_few_transactions(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            heard = listen(lab)
            for n in range(30):
                await lab.want(f"vm{n}", memory_mib=64)
            await lab.until("all run", lambda: running(lab, 30), 120)
            sent = [(change, won) for change, won in heard if change.name == "claim"]
            assert all(won for _, won in sent)
            alive = [sum(guard.key == KEYS.node_alive("n1") for guard in change.guards) for change, _ in sent]
            assert set(alive) == {1}
            assert max(sum("/claims/" in e.key for e in change.effects) for change, _ in sent) > 1
            assert len(sent) < 30

    run(story())


def test_a_lost_claim_takes_no_other_with_it(tmp_path: Path) -> None:
    """Two VMs go together; the spec of one changes while they are on their way."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            heard = listen(lab)
            store = lab.hosts["n1"].store
            assert store is not None
            await asyncio.gather(lab.want("vm1"), lab.want("vm2"), lab.want("vm3"))
            commit, changed = store.commit, []

            async def late(change: Transaction):
                if change.name == "claim" and len(change.guards) > 5 and not changed:
                    changed.append(change)
                    await lab.want("vm2", memory_mib=1024)
                return await commit(change)

            store.commit = late  # type: ignore[method-assign]
            await lab.until("all run", lambda: running(lab, 3))
            assert changed
            outcomes = Counter(won for change, won in heard if change.name == "claim")
            assert outcomes[False] <= 2
            assert claimed_by(lab) == {"vm1": "n1", "vm2": "n1", "vm3": "n1"}

    run(story())


def test_a_lost_reply_is_settled_for_each_claim(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            for host in lab.hosts.values():
                assert host.store is not None
                commit = host.store.commit
                lost: list[str] = []

                async def losing(change: Transaction, commit=commit, lost=lost):
                    outcome = await commit(change)
                    if change.name == "claim" and not lost:
                        lost.append(change.name)
                        raise UnknownOutcome("claim: the reply was lost")
                    return outcome

                host.store.commit = losing  # type: ignore[method-assign]
            for n in range(8):
                await lab.want(f"vm{n}")
            await lab.until("all run", lambda: running(lab, 8))
            for n in range(8):
                assert lab.where(f"vm{n}") == claimed_by(lab)[f"vm{n}"]
            for host in lab.hosts.values():
                assert host.agent is not None
                assert not host.agent._reconciler._claims._coming

    run(story())


def test_two_workers_do_not_both_take_the_last_capacity(tmp_path: Path) -> None:
    """Virtually assigned elsewhere, both turn to this node at one moment: only one fits."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            config = ClusterConfig(host_reserve_mib=0, overcommit_memory=1.0)
            await lab.put(KEYS.cluster(), encode(config))
            room = lab.hosts["n1"].hypervisor
            mib = (await room.facts()).capacity.memory_mib
            # n2 hears nothing, so n1 gets its turns too; and its own claims are long on their way.
            assert lab.hosts["n1"].store is not None and lab.hosts["n2"].store is not None
            lab.hosts["n2"].store.deafen()
            lab.hosts["n1"].store._latency_s = lambda: 0.2
            size = mib // 3
            await asyncio.gather(*(lab.want(f"vm{n}", memory_mib=size) for n in range(4)))
            await lab.until("three run", lambda: running(lab, 3))
            await asyncio.sleep(3)
            taken = Counter(claimed_by(lab).values())
            assert taken["n1"] == 3

    run(story())


def test_two_of_a_group_never_share_a_zone(tmp_path: Path) -> None:
    """Two nodes of one zone claim, each from a view without the other's claim: one is refused.

    While the claim of db0 is on its way, db1 comes, goes before it by priority, and is claimed in that zone.
    """

    async def story() -> None:
        async with lab_of(tmp_path, nodes=3) as lab:
            await zones(lab, n1="a", n2="a", n3="b")
            far = {"labels": {"app": "db"}, "placement": APART}
            await lab.put(KEYS.node_spec("n3"), encode(NodeSpec(labels={"zone": "b"}, cordoned=True)))
            held: list[str] = []
            for host in lab.hosts.values():
                assert host.store is not None
                commit = host.store.commit

                async def late(change: Transaction, commit=commit, node=host.name):
                    if change.name == "claim" and not held:
                        held.append(node)
                        await lab.want("db1", ha=Ha(priority=10), **far)
                        await lab.until("db1 is claimed", lambda: "db1" in claimed_by(lab))
                    return await commit(change)

                host.store.commit = late  # type: ignore[method-assign]
            heard = listen(lab)
            await lab.want("db0", **far)
            await lab.until("db1 runs", lambda: lab.where("db1"))
            await asyncio.sleep(20)
            assert list(claimed_by(lab)) == ["db1"]
            lost = [change for change, won in heard if change.name == "claim" and not won]
            assert len(lost) == 1 and any("/groups/" in guard.key for guard in lost[0].guards)
            await lab.put(KEYS.node_spec("n3"), encode(NodeSpec(labels={"zone": "b"})))
            await lab.until("the other goes elsewhere", lambda: lab.where("db0") == "n3")

    run(story())


def test_two_of_a_group_never_share_a_node(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            lonely = {"labels": {"app": "db"}, "placement": ON_ITS_OWN}
            await asyncio.gather(*(lab.want(f"db{n}", **lonely) for n in range(4)))
            await lab.until("two run", lambda: running(lab, 2))
            await asyncio.sleep(5)
            assert sorted(claimed_by(lab).values()) == ["n1", "n2"]

    run(story())


def test_an_unprovable_claim_is_refused(tmp_path: Path) -> None:
    """Four VMs that wait have 32 rules each about one label: a claim with it would compare them all."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            await lab.put(KEYS.node_spec("n1"), encode(NodeSpec(labels={f"t{n}": "x" for n in range(128)})))
            for n in range(4):
                far = tuple(
                    GroupTerm(labels={"app": "db"}, topology=f"t{t}") for t in range(32 * n, 32 * n + 32)
                )
                place = Placement(anti_affinity=far, node_selector={"no": "where"})
                await lab.want(f"rule{n}", placement=place, ha=Ha(priority=9))
            await lab.want("plain", labels={"app": "db"})
            await lab.want("other")
            await lab.until("the other runs", lambda: lab.where("other"))
            agent = lab.hosts["n1"].agent
            assert agent is not None
            await lab.until(
                "it is said", lambda: "one transaction" in agent.node.memory.of(vm("plain")).message
            )
            assert claimed_by(lab) == {"other": "n1"}

    run(story())


def test_tokens_go_with_the_last_of_a_group(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            await zones(lab, n1="a", n2="b")
            spec = await lab.want("db1", labels={"app": "db"}, placement=APART)
            await lab.until("runs", lambda: lab.where("db1"))
            assert lab.cluster.under(KEYS.prefix(Kind.GROUP))
            await asyncio.sleep(130)
            assert lab.cluster.under(KEYS.prefix(Kind.GROUP)), "it is borne still"
            for notice in given(KEYS, None, spec):
                await lab.put(notice.key, notice.value)
            await lab.delete(KEYS.claim(spec.id))
            await asyncio.sleep(130)
            notices = [entry.key for entry in lab.cluster.under(KEYS.prefix(Kind.GROUP))]
            assert any(key.endswith(f"/{RULE_VERSION}") for key in notices), "as long as anybody has the rule"
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.until("swept", lambda: not lab.cluster.under(KEYS.prefix(Kind.GROUP)), 200)

    run(story())


def test_the_disk_remembers_where_the_vm_ran_last(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("vm1")
            await lab.until("runs", lambda: _phase(lab, "vm1") is Phase.RUNNING)
            node = lab.where("vm1")
            heard = listen(lab)
            await lab.want("vm1", power="off")
            await lab.until("off", lambda: not claimed_by(lab))
            raw = lab.entry(KEYS.volume("default", spec.volume_uuid))
            assert raw is not None and decode(Volume, raw).last_node == node
            assert [change.name for change, _ in heard].count("release") == 1

    run(story())


def _phase(lab: Lab, name: str) -> Phase | None:
    raw = lab.entry(KEYS.vm_status(vm(name)))
    return decode(VmStatus, raw).phase if raw else None


def test_a_vm_taken_over_for_release_is_not_started(tmp_path: Path) -> None:
    """Nobody proved that it may run there: switched on in that moment, it is released and claimed again."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=3) as lab:
            spec = await lab.want("vm1")
            await lab.until("runs", lambda: _phase(lab, "vm1") is Phase.RUNNING)
            node = lab.where("vm1")
            await lab.hosts[node].power_cut()
            await lab.want("vm1", power="off")
            apply, heard = lab.cluster.apply, []

            def switching_on(change: Transaction):
                outcome = apply(change)
                heard.append(change.name)
                if change.name == "takeover":
                    put = Put(KEYS.vm_spec(spec.id), encode(vm_spec("vm1", run=2)))
                    apply(Transaction(name="test", guards=(), effects=(put,)))
                return outcome

            lab.cluster.apply = switching_on  # type: ignore[method-assign]
            await lab.until("taken over", lambda: "takeover" in heard)
            await lab.until("runs again", lambda: _phase(lab, "vm1") is Phase.RUNNING)
            names = [name for name in heard if name in ("takeover", "release", "claim")]
            assert names == ["takeover", "release", "claim"]

    run(story())
