"""The clients of what was killed on the way back: shut out together, within one bound, in one session."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from agent_rig import Lab, lab_of

from metastack.agent.session.session import LEAVE_S, Session
from metastack.core.domains import Domain, DomainState
from metastack.lab.sim.engine.loop import run
from metastack.storage.twin import MemoryStorage


def session_of(lab: Lab) -> Session:
    agent = lab.hosts["n1"].agent
    assert agent is not None
    return agent.node.session


def killed(number: int) -> Domain:
    uuid = f"{number:08d}-0000-4000-8000-00000000000"
    return Domain(
        uuid=f"{uuid}a", project="default", name="a", state=DomainState.DEFINED, volume_uuid=f"{uuid}b",
        clients=(f"10.0.0.1:0/{number + 1}",),
    )  # fmt: skip


async def blocked_and_back(lab: Lab) -> float:
    """Have the node shut out; seconds until it is ready again."""
    session, loop = session_of(lab), asyncio.get_running_loop()
    await lab.hosts["n1"].agent.node.storage.fence(("10.0.0.1",), "test", "test")  # type: ignore[union-attr]
    await lab.until("its session is over", lambda: not session.ready)
    begun_s = loop.time()
    await lab.until("it is ready", lambda: session.ready, within_s=600)
    return loop.time() - begun_s


@pytest.mark.parametrize("takes_s", [1.0, 1000.0])
def test_many_clients_hold_the_way_back_up_for_one_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, takes_s: float
) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            done = []

            async def evict(_self: MemoryStorage, uuid: str, _client: str, *, dead: bool) -> None:
                await asyncio.sleep(takes_s)
                done.append((uuid, dead))

            monkeypatch.setattr(MemoryStorage, "evict", evict)
            for number in range(100):
                session_of(lab).killed(killed(number))
            assert await blocked_and_back(lab) < LEAVE_S + 2
            assert len(set(done)) == (100 if takes_s < LEAVE_S else 0)

    run(play())


def test_guests_killed_in_an_earlier_session_are_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def play() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            evicted = []

            async def evict(_self: MemoryStorage, uuid: str, _client: str, *, dead: bool) -> None:
                evicted.append((uuid, dead))

            monkeypatch.setattr(MemoryStorage, "evict", evict)
            session = session_of(lab)
            before = session.number
            session.killed(killed(1))
            session.lose("test")
            await lab.until(
                "a session that needs no unblock", lambda: session.ready and session.number != before
            )
            await asyncio.sleep(3600)
            await blocked_and_back(lab)
            assert evicted == []

    run(play())
