"""An agent that began while etcd was away waits for it, however long, and then has a session."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from agent_rig import lab_of

from metastack.lab.sim.engine.loop import run
from metastack.ports import Unavailable
from metastack.store.twin.store import MemoryStore

AWAY_S = 4000.0


def test_an_agent_that_begins_without_etcd_waits_for_hours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            host = lab.hosts["n1"]
            await host.crash()

            async def away(*_args: object, **_more: object) -> object:
                raise Unavailable("etcd is away")

            with monkeypatch.context() as patch:
                for call in ("list", "get", "grant", "commit", "watch"):
                    patch.setattr(MemoryStore, call, away)
                host.start()
                await asyncio.sleep(AWAY_S)
                assert host._task is not None and not host._task.done()
                assert host.agent is not None and "etcd" in host.agent.node.session.message
            await lab.until("ready again", lambda: host.agent and host.agent.node.session.ready, within_s=90)

    run(play())
