"""A node that registers again and again and is never ready gives its place up, unless its guests run."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from agent_rig import KEYS, lab_of

from metastack.agent.session import Session
from metastack.core.model import Placement
from metastack.ports import Refused, Unavailable
from metastack.sim.loop import run


def _never_ready(patch: pytest.MonkeyPatch, error: Exception) -> None:
    ready = Session._become_ready

    async def refuse(self: Session) -> None:
        if self.name == "n1":
            raise error
        await ready(self)

    patch.setattr(Session, "_become_ready", refuse)


@pytest.mark.parametrize(
    ("guest_runs", "error", "moves"),
    [
        (False, Refused("some refusal"), True),
        (True, Refused("some refusal"), False),
        (False, Unavailable("the storage does not answer"), False),
    ],
    ids=["in-vain", "its-guest-runs", "named-wait"],
)
def test_a_place_held_in_vain_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, guest_runs: bool, error: Exception, moves: bool
) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=3) as lab:
            await lab.all_ready()
            await lab.want("hello", placement=Placement(node="n1"))
            await lab.until("running", lambda: lab.where("hello") == "n1")
            host = lab.hosts["n1"]
            await host.crash()
            if not guest_runs:
                host.hypervisor.power_cut()
                host.hypervisor.daemon_returns()
            _never_ready(monkeypatch, error)
            host.start()
            await asyncio.sleep(200)
            fenced = lab.entry(KEYS.fence("n1")) is not None
            assert fenced == moves

    run(story())
