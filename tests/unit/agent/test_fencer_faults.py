"""Fencing when the storage refuses, when fencers die or come late, and when a person asks for it."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent_rig import KEYS, Lab, lab_of
from structlog.testing import capture_logs

from metastack.core.model import Fence, NodeAlive, NodeFacts, Placement
from metastack.core.protocol import fences
from metastack.core.state.cluster_state import seen
from metastack.core.state.codec import decode, encode
from metastack.lab.sim.engine.loop import run
from metastack.ports import Denied, Unavailable


def fence_of(lab: Lab, node: str) -> Fence:
    raw = lab.entry(KEYS.fence(node))
    return decode(Fence, raw) if raw else Fence()


def alive_of(lab: Lab, node: str) -> NodeAlive | None:
    raw = lab.entry(KEYS.node_alive(node))
    return decode(NodeAlive, raw) if raw else None


async def victim_with_a_vm(lab: Lab) -> str:
    """A VM runs; its node."""
    await lab.want("hello")
    await lab.until("running", lambda: lab.where("hello"))
    return lab.where("hello")


def test_a_refused_fence_is_logged_once_a_minute(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            victim = await victim_with_a_vm(lab)
            others = [name for name in lab.hosts if name != victim]
            denied = Denied("client.n2 may not block")
            lab.pool.fail = lambda what, _address: denied if what == "fence" else None
            with capture_logs() as logs:
                await lab.hosts[victim].power_cut()
                await asyncio.sleep(300)
            assert lab.where("hello") == ""
            assert not fence_of(lab, victim).through
            said = [entry for entry in logs if entry["event"] == "fence_failed"]
            loud = [entry for entry in said if entry["log_level"] == "error"]
            assert 2 <= len(loud) <= 2 * (300 / 60 + 1), [e["node"] for e in loud]
            told = [alive_of(lab, name) for name in others]
            assert any(a and "may not block" in a.fence_failures.get(victim, "") for a in told), told
            assert any(a and f"cannot fence {victim}" in a.message for a in told)
            lab.pool.fail = lambda _what, _address: None
            await lab.until("taken over", lambda: lab.where("hello") in others, 30)
            await lab.until(
                "no word of it is left",
                lambda: not any((a := alive_of(lab, name)) and a.fence_failures for name in others),
                60,
            )

    run(story())


def test_a_fencer_without_storage_hands_the_fence_over(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            victim = await victim_with_a_vm(lab)
            others = {name: lab.hosts[name].address for name in lab.hosts if name != victim}
            first: list[str] = []

            def fail(what: str, address: str) -> Exception | None:
                if what == "fence":
                    first.append(address)
                    return Unavailable("no route") if address == first[0] else None
                return None

            lab.pool.fail = fail
            await lab.hosts[victim].power_cut()
            took_s = await lab.until("taken over", lambda: lab.where("hello") in others, 30)
            assert took_s < 15
            receipt = fence_of(lab, victim).receipt
            assert receipt is not None
            assert others[receipt.by] != first[0]
            assert receipt.at

    run(story())


def test_a_dead_fencer_is_replaced(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            victim = await victim_with_a_vm(lab)
            lab.pool.delay_s = lambda what: 3.0 if what == "fence" else 0.0
            await lab.hosts[victim].power_cut()
            await lab.until("an intent", lambda: fence_of(lab, victim).intent)
            fencer = fence_of(lab, victim).intent_by
            await lab.hosts[fencer].power_cut()
            # Two of three are gone: the brake holds for the second, but the open fence is finished.
            (last,) = set(lab.hosts) - {victim, fencer}
            await lab.until("taken over", lambda: lab.where("hello") == last, 30)
            receipt = fence_of(lab, victim).receipt
            assert receipt is not None
            assert receipt.by == last
            assert lab.hosts[fencer].address not in lab.pool.blocked

    run(story())


def test_by_hand_overrides_the_brake(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            for number, name in enumerate("abc", 1):
                await lab.want(name, placement=Placement(node=f"n{number}"))
            await lab.until("running", lambda: all(lab.where(n) for n in "abc"))
            await lab.hosts["n1"].power_cut()
            await lab.hosts["n2"].power_cut()
            await asyncio.sleep(30)
            alive = alive_of(lab, "n3")
            assert alive is not None
            assert alive.brake.startswith("brake: 2 of 3")
            assert not lab.pool.blocked
            entry = lab.cluster.get(KEYS.fence("n1"))
            found = seen(Fence, entry) if entry is not None else None
            await lab.client.commit(fences.intent_by_hand(KEYS, "n1", found, 0, "now", "it burns"))
            await lab.until("fenced", lambda: fence_of(lab, "n1").through, 10)
            fence = fence_of(lab, "n1")
            assert fence.receipt is not None
            assert (fence.receipt.by, fence.receipt.reason, fence.intent_reason) == ("n3", "it burns", "")
            assert lab.pool.blocked == {lab.hosts["n1"].address}

    run(story())


def test_a_returning_node_cancels_a_manual_intent(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            victim = await victim_with_a_vm(lab)
            for host in lab.hosts.values():
                await host.crash()
            await lab.until("all gone", lambda: not any(alive_of(lab, n) for n in lab.hosts), 30)
            await lab.client.commit(fences.intent_by_hand(KEYS, victim, None, 0, "now", "thought it dead"))
            lab.hosts[victim].start()
            agent = lab.hosts[victim].agent
            await lab.until("back", lambda: agent is not None and agent.node.session.ready, 30)
            fence = fence_of(lab, victim)
            assert (fence.intent, fence.intent_by, fence.intent_reason, fence.through) == (False, "", "", 0)
            for name in set(lab.hosts) - {victim}:
                lab.hosts[name].start()
            await lab.all_ready()
            await asyncio.sleep(30)
            assert lab.where("hello") == victim
            assert not lab.pool.blocked

    run(story())


def test_a_late_fencer_costs_a_session_and_nothing_else(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            victim = await victim_with_a_vm(lab)
            host = lab.hosts[victim]
            assert host.agent is not None
            session = host.agent.node.session.number
            # The block of a fence that nobody wrote down: its fencer was given up long ago.
            lab.pool.blocked.add(host.address)
            with capture_logs() as logs:
                await lab.until("it left its session", lambda: host.agent.node.session.number != session, 60)
                await lab.all_ready()
            assert host.address not in lab.pool.blocked
            assert host.agent.node.session.number > session
            assert [e["why"] for e in logs if e["event"] == "session_lost"] == ["the storage blocks this node"]
            await lab.until("it runs again", lambda: lab.where("hello"), 30)

    run(story())


def test_nodes_that_share_an_address_are_not_fenced_by_it(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            victim = await victim_with_a_vm(lab)
            raw = lab.entry(KEYS.node_facts(victim)) or b""
            other = next(name for name in lab.hosts if name != victim)
            theirs = lab.hosts[other].address.encode()
            await lab.put(KEYS.node_facts(victim), raw.replace(lab.hosts[victim].address.encode(), theirs))
            await lab.hosts[victim].power_cut()
            await asyncio.sleep(60)
            assert not lab.pool.blocked
            assert lab.where("hello") == ""
            said = {name: (a.fence_failures if (a := alive_of(lab, name)) else {}) for name in lab.hosts}
            assert any("shares the storage address" in f.get(victim, "") for f in said.values()), said

    run(story())


def test_a_node_with_the_address_of_another_lifts_no_block(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host = lab.hosts["n3"]
            await host.power_cut()
            ghost = NodeFacts(name="ghost", uuid="uuid-of-ghost", storage_addresses=(host.address,))
            await lab.put(KEYS.node_facts("ghost"), encode(ghost))
            lab.pool.blocked.add(host.address)  # the ghost's fence
            host.start()
            agent = host.agent
            assert agent is not None
            await asyncio.sleep(60)
            assert not agent.node.session.ready
            assert "node remove ghost" in agent.node.session.message, agent.node.session.message
            assert host.address in lab.pool.blocked
            await lab.delete(KEYS.node_facts("ghost"))
            await lab.until("ready", lambda: agent.node.session.ready, 30)

    run(story())
