"""Old events go by the wall clock; not by one that nobody else shares."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent_rig import KEYS, Lab, lab_of

from metastack.core.model import Event, Placement
from metastack.core.state.codec import encode
from metastack.core.state.keys import Kind
from metastack.lab.sim.engine.loop import run

DAY_MS = 86_400_000


def _now_ms() -> int:
    return int((1e9 + asyncio.get_running_loop().time()) * 1000)


async def _happened(lab: Lab, days_ago: float, ident: str) -> str:
    key = KEYS.event(int(_now_ms() - days_ago * DAY_MS), ident)
    await lab.put(key, encode(Event(at="", by="user/alice", what="vm.created", object="default/x", message="")))
    return key


def _there(lab: Lab, key: str) -> bool:
    return any(entry.key == key for entry in lab.cluster.under(KEYS.prefix(Kind.EVENT)))


def test_old_ones_go_and_young_ones_stay(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            old, young = await _happened(lab, 8, "old"), await _happened(lab, 1, "young")
            await _happened(lab, 0, "now")
            await lab.until("trimmed", lambda: not _there(lab, old), 200)
            assert _there(lab, young)

    run(story())


def test_an_agent_whose_clock_is_ahead_trims_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            agents = [host.agent for host in lab.hosts.values() if host.agent is not None]
            (trims,) = [a.node for a in agents if a.node.rank_of("sweep:events") == 0]
            trims.clock._wall = lambda: 1e9 + 30 * 86_400 + asyncio.get_running_loop().time()
            young = await _happened(lab, 1, "young")
            await _happened(lab, 0, "now")
            await lab.want("hello", placement=Placement(node=trims.name))  # its own events are no proof
            await asyncio.sleep(300)
            assert _there(lab, young)

    run(story())
