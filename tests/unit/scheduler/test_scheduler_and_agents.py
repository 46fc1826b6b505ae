"""Agents and a scheduler together, on twins and in virtual time: hints are followed, and never waited for."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "agent"))

from agent_rig import KEYS, Lab, lab_of

from metastack.core.model import ClusterConfig, Hint, NodeSpec, Placement
from metastack.core.state.codec import decode, encode
from metastack.core.state.keys import Kind
from metastack.lab.sim.engine.loop import run
from metastack.scheduler.scheduler import Scheduler
from metastack.store.twin.store import MemoryStore

BATCH_MIB = {"small1": 2200, "small2": 2200, "large": 10_900}
"""A node of the rig has 16 GiB, 1 GiB of it reserved, and runs something of 3000 MiB already."""


def hints(lab: Lab) -> dict[str, str]:
    found = lab.cluster.under(KEYS.prefix(Kind.HINT))
    return {entry.key.rpartition("/")[2]: decode(Hint, entry.value).node for entry in found}


def start(lab: Lab, name: str) -> tuple[MemoryStore, asyncio.Task[None]]:
    store = MemoryStore(lab.cluster)
    scheduler = Scheduler(store=store, keys=KEYS, name=name, stamp=lambda: "")
    return store, lab.group.create_task(scheduler.run(asyncio.Event()))


async def crowded(lab: Lab) -> None:
    """n1 runs two small VMs and a large one; n2 and n3 have capacity for them in one way only."""
    await lab.put(KEYS.cluster(), encode(ClusterConfig(brake_percent=100)))
    for name in ("n2", "n3"):
        await lab.want(f"on-{name}", memory_mib=3000, placement=Placement(node=name))
    await lab.until("both run", lambda: len(everywhere(lab)) == 2)
    for name in ("n2", "n3"):
        await cordon(lab, name, True)
    for name, mib in BATCH_MIB.items():
        await lab.want(name, memory_mib=mib)
    await lab.until("n1 runs all three", lambda: len(lab.hosts["n1"].running()) == 3)
    for name in ("n2", "n3"):
        await cordon(lab, name, False)


async def cordon(lab: Lab, name: str, on: bool) -> None:
    await lab.put(KEYS.node_spec(name), encode(NodeSpec(cordoned=on)))


def in_lab(tmp_path: Path, play: Callable[[Lab], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with lab_of(tmp_path) as lab:
            await play(lab)
        lab.cluster.stop()

    run(whole())


def everywhere(lab: Lab) -> list[str]:
    """What runs, on whichever node."""
    return sorted(name for host in lab.hosts.values() for name in host.running())


def batch(lab: Lab) -> list[str]:
    """Which of the three run."""
    return [name for name in BATCH_MIB if lab.where(name)]


def test_agents_follow_the_hints_of_a_batch(tmp_path: Path) -> None:
    async def play(lab: Lab) -> None:
        await crowded(lab)
        _, task = start(lab, "s1")
        await asyncio.sleep(1.0)
        assert hints(lab) == {}
        await lab.hosts["n1"].power_cut()
        await lab.until("hints before the fence is done", lambda: len(hints(lab)) == 3)
        told = hints(lab)
        assert lab.entry(KEYS.fence("n1")) is None
        await lab.until("all three run again", lambda: len(batch(lab)) == 3)
        assert {name: lab.where(name) for name in told} == told
        await lab.until("what was followed is withdrawn", lambda: not hints(lab))
        task.cancel()

    in_lab(tmp_path, play)


def test_without_a_scheduler_the_nodes_choose_alone(tmp_path: Path) -> None:
    """The same crash: the large one, the youngest, finds no capacity. That is what a scheduler is for."""

    async def play(lab: Lab) -> None:
        await crowded(lab)
        await lab.hosts["n1"].power_cut()
        await lab.until("the small ones run again", lambda: len(batch(lab)) == 2)
        await asyncio.sleep(60.0)
        assert batch(lab) == ["small1", "small2"]

    in_lab(tmp_path, play)


@pytest.mark.parametrize("how", ["killed", "cut off"])
def test_a_dead_scheduler_is_not_waited_for(tmp_path: Path, how: str) -> None:
    async def play(lab: Lab) -> None:
        await crowded(lab)
        store, task = start(lab, "s1")
        await asyncio.sleep(1.0)
        await lab.hosts["n1"].power_cut()
        await lab.until("hints", lambda: len(hints(lab)) == 3)
        if how == "killed":
            task.cancel()
        else:
            store.partition()
        # Hints outlive it for the TTL, and are followed until then; a new VM is not hinted at all.
        await lab.want("new", memory_mib=256)
        took_s = await lab.until("the new one runs", lambda: lab.where("new"))
        assert took_s < 1.0, "nobody waited for a scheduler"
        await lab.until("all run again", lambda: len(batch(lab)) == 3)
        await lab.until("the hints are gone", lambda: not hints(lab), within_s=10.0)
        task.cancel()

    in_lab(tmp_path, play)


def test_a_hint_that_is_wrong_by_now_is_passed_by(tmp_path: Path) -> None:
    """Hinted to a node that dies as well: whoever fits takes it."""

    async def play(lab: Lab) -> None:
        await crowded(lab)
        spec = await lab.want("odd", memory_mib=256, power="off")
        lease = lab.cluster.grant(60)
        await lab.put(KEYS.hint(spec.id), encode(Hint(uuid=spec.uuid, node="gone", by="scheduler/x")))
        await lab.want("odd", memory_mib=256)
        took_s = await lab.until("odd runs", lambda: lab.where("odd"))
        assert took_s < 1.0
        lab.cluster.revoke(lease)

    in_lab(tmp_path, play)
