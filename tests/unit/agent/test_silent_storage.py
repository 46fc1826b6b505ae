"""A node whose storage is silent: what it says, what it takes, and who says that the storage is well."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent_rig import KEYS, Lab, lab_of

from metastack.agent.fencing.storage_silence import MISSES, PROBE_EVERY_S, StorageSilence
from metastack.core.model import ClusterConfig, NodeAlive
from metastack.core.state.codec import decode, encode
from metastack.lab.sim.engine.loop import run


def alive(lab: Lab, node: str) -> NodeAlive:
    entry = lab.entry(KEYS.node_alive(node))
    assert entry is not None
    return decode(NodeAlive, entry)


def silence(lab: Lab, node: str) -> StorageSilence:
    agent = lab.hosts[node].agent
    assert agent is not None
    return agent.silence


def test_a_silence_is_numbered_by_its_first_announcement(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=3) as lab:
            assert alive(lab, "n2").storage_proved == 0, "a proof that nobody needs is an event for nothing"
            lab.pool.partition(lab.hosts["n1"].address)
            await lab.until("n1 says so", lambda: alive(lab, "n1").storage_silent_since, 60)
            entry = lab.cluster.get(KEYS.node_alive("n1"))
            assert entry is not None
            first = entry.mod_revision
            assert not alive(lab, "n1").storage_ok
            await lab.until("its number stays", lambda: alive(lab, "n1").storage_silent_at == first, 10)
            for name in ("n2", "n3"):
                await lab.until("proved", lambda: alive(lab, name).storage_proved >= first, 10)  # noqa: B023
            since = alive(lab, "n1").storage_silent_since
            await lab.want("one")
            await lab.until("elsewhere", lambda: lab.where("one") in ("n2", "n3"))
            assert alive(lab, "n1").storage_silent_since == since
            lab.pool.heal(lab.hosts["n1"].address)
            await lab.until("well again", lambda: alive(lab, "n1").storage_ok, 10)
            assert alive(lab, "n1").storage_silent_since == ""
            assert alive(lab, "n1").storage_silent_at == 0

    run(story())


def test_one_failure_is_no_silence_and_no_streak_either(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            mine = silence(lab, "n1")
            await lab.until("it answered", lambda: mine.answers_from_s is not None, 10)
            lab.pool.down = True
            for _ in range(MISSES - 1):
                assert not await mine.ask()
            assert (mine.since, mine.answers_from_s) == ("", None)
            lab.pool.down = False
            assert await mine.ask()
            assert mine.since == ""
            assert mine.answers_from_s is not None

    run(story())


def test_a_slow_answer_ends_a_silence_and_proves_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            mine = silence(lab, "n1")
            lab.pool.down = True
            await lab.until("silent", lambda: mine.since, 60)
            lab.pool.down = False
            lab.pool.delay_s = lambda what: 5.0 if what == "probe" else 0.0
            before = mine.proved
            await lab.until("it answers", lambda: not mine.since, 60)
            assert mine.answers_from_s is None
            assert mine.proved == before

    run(story())


def test_two_nodes_fence_a_silent_one_unless_disabled(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=2) as lab:
            await lab.put(KEYS.cluster(), encode(ClusterConfig(storage_lost_s=0)))
            await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            home = lab.where("hello")
            lab.pool.partition(lab.hosts[home].address)
            await asyncio.sleep(600)
            assert lab.where("hello") == home
            await lab.put(KEYS.cluster(), encode(ClusterConfig(storage_lost_s=60)))
            # The guest of before stands there while its node's calls hang: shut out, it writes nothing.
            [other] = [host for name, host in lab.hosts.items() if name != home]
            await lab.until("elsewhere", other.running, 20)
            lab.pool.heal(lab.hosts[home].address)
            await lab.until("ended at home", lambda: not lab.hosts[home].running(), 60)
            await lab.all_ready()
            assert lab.where("hello") == other.name

    run(story())


def test_a_block_is_noticed_by_the_probe(tmp_path: Path) -> None:
    """Not only at the next full look: until then its guests would wait for nothing."""

    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            await lab.put(KEYS.cluster(), encode(ClusterConfig(full_look_s=3600)))
            await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            lab.pool.blocked.add(lab.hosts["n1"].address)
            await lab.until("let in again", lambda: not lab.pool.blocked, 2 * PROBE_EVERY_S)

    run(story())
