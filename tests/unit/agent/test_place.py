"""A node that is alive and never ready gives its place up, unless its guests run: also when a step of it hangs,
and when its agents die one after the other."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import uvloop
from agent_rig import KEYS, lab_of

from metastack.agent.cache.informer import Informer
from metastack.agent.session.hold_file import HoldFile, HoldRecord
from metastack.agent.session.name_hold import AWAY_S, STABLE_S, USELESS_S, WATCH_EVERY_S, NameHold
from metastack.agent.session.session import Session
from metastack.agent.session.state_files import StateFiles
from metastack.core.model import Placement
from metastack.hypervisor.twin.hypervisor import MemoryHypervisor
from metastack.lab.sim.engine.loop import run
from metastack.ports import Hypervisor, LocalTrouble, Refused, Unavailable


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


@pytest.mark.parametrize("guest_runs", [False, True], ids=["in-vain", "its-guest-runs"])
@pytest.mark.parametrize("step", ["_write_down", "_unblock", "_become_ready"])
def test_a_step_that_hangs_does_not_hold_the_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, guest_runs: bool
) -> None:
    well = getattr(Session, step)

    async def hang(self: Session) -> None:
        if self.name == "n1":
            await asyncio.Event().wait()
        await well(self)

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
            monkeypatch.setattr(Session, step, hang)
            host.start()
            await asyncio.sleep(200)
            assert (lab.entry(KEYS.fence("n1")) is not None) != guest_runs

    run(story())


def test_waiting_for_an_unblock_is_no_hang(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=3) as lab:
            await lab.all_ready()
            await lab.want("hello", placement=Placement(node="n1"))
            await lab.until("running", lambda: lab.where("hello") == "n1")
            host = lab.hosts["n1"]
            await host.crash()
            host.hypervisor.power_cut()
            host.hypervisor.daemon_returns()
            (host.folder / "unblock-pending").write_text("")
            host.start()
            await asyncio.sleep(140)
            assert lab.entry(KEYS.fence("n1")) is None
            assert lab.where("hello") == "n1"

    run(story())


# --- over the deaths of its agents


class Full(StateFiles):
    """A disk that takes nothing."""

    def _write(self, name: str, text: str) -> None:
        raise LocalTrouble(f"writing {name}: No space left on device")


def _place(folder: Path, boot_id: str = "boot-1", state_files: type[StateFiles] = StateFiles) -> NameHold:
    """A fresh process's, on a node with a claim that waits, and no guest."""
    folder.mkdir(exist_ok=True)
    world = SimpleNamespace(
        unfenced=lambda _name: ("a claim",), claims=lambda: (), fenced_through=lambda _name: 0
    )
    informer = cast(Informer, SimpleNamespace(world=world))
    hypervisor = cast(Hypervisor, MemoryHypervisor(uuid="00000000-0000-4000-8000-000000000001"))
    return NameHold("n1", informer, hypervisor, HoldFile(state_files(folder), boot_id))


async def _dies(folder: Path, boot_id: str = "boot-1", state_files: type[StateFiles] = StateFiles) -> NameHold:
    """One more agent that registered and died; answers the next one."""
    place = _place(folder, boot_id, state_files)
    place.begin()
    place.registered()
    await asyncio.sleep(2)
    after = _place(folder, boot_id, state_files)
    after.begin()
    return after


def test_agents_that_die_again_and_again_are_counted(tmp_path: Path) -> None:
    async def story() -> None:
        await asyncio.sleep(100)
        place = await _dies(tmp_path)
        assert not await place.is_useless()
        while asyncio.get_running_loop().time() < 100 + USELESS_S:
            assert not await place.is_useless()
            place = await _dies(tmp_path)
        assert await place.is_useless()
        assert await place.away_s() == AWAY_S
        await asyncio.sleep(1)
        # The next one stays away for the rest of it, and then counts from nothing, but for the longer wait.
        after = _place(tmp_path)
        assert after.begin() == pytest.approx(AWAY_S - 1)
        assert not await after.is_useless()
        await asyncio.sleep(AWAY_S)
        assert _place(tmp_path).begin() == 0.0
        for _ in range(40):
            place = await _dies(tmp_path)
        assert await place.is_useless()
        assert await place.away_s() == 2 * AWAY_S

    run(story())


def test_one_death_is_an_accident(tmp_path: Path) -> None:
    async def story() -> None:
        await asyncio.sleep(100)
        _place(tmp_path).registered()
        await asyncio.sleep(10 * USELESS_S)
        place = _place(tmp_path)
        place.begin()
        assert not await place.is_useless()

    run(story())


@pytest.mark.parametrize("end", ["ready", "stopped", "another-boot"])
def test_the_count_is_forgotten(tmp_path: Path, end: str) -> None:
    async def story() -> None:
        await asyncio.sleep(100)
        for _ in range(40):
            place = await _dies(tmp_path)
        assert await place.is_useless()
        if end == "ready":
            place.ready()
            await asyncio.sleep(STABLE_S + WATCH_EVERY_S)
        elif end == "stopped":
            place.forget()
        after = _place(tmp_path, "boot-2" if end == "another-boot" else "boot-1")
        assert after.begin() == 0.0
        assert not await after.is_useless()

    run(story())


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[]",
        b'{"boot_id": 7}',
        b'{"boot_id": "boot-1", "from_s": "long ago", "deaths": 9}',
        b'{"boot_id": "boot-1", "from_s": 1e9, "deaths": 9}',
        b'{"boot_id": "boot-1", "from_s": -1, "deaths": 9}',
        b'{"boot_id": "boot-1", "from_s": 1, "deaths": -9}',
        b'{"boot_id": "boot-1", "from_s": 1, "deaths": 9, "given_up": -1}',
        b'{"boot_id": "boot-1", "from_s": 1, "deaths": 9, "away_until_s": 1e9}',
        b'{"boot_id": "boot-1", "from_s": 1, "deaths": 9, "away_until_s": 1e999}',
        None,
    ],
)
def test_a_file_that_makes_no_sense_is_none(tmp_path: Path, text: bytes | None) -> None:
    async def story() -> None:
        await asyncio.sleep(100)
        if text is None:
            (tmp_path / "place.json").mkdir()
        else:
            (tmp_path / "place.json").write_bytes(text)
        place = _place(tmp_path)
        assert place.begin() == 0.0
        assert not await place.is_useless()
        place.registered()
        place.forget()

    run(story())


def test_a_disk_that_takes_nothing_costs_the_count_only(tmp_path: Path) -> None:
    async def story() -> None:
        await asyncio.sleep(100)
        place = await _dies(tmp_path, state_files=Full)
        place.registered()
        await asyncio.sleep(USELESS_S)
        assert await place.is_useless()  # by what this process knows
        assert await place.away_s() == AWAY_S
        place.forget()

    run(story())


def test_without_a_boot_id_nothing_is_kept(tmp_path: Path) -> None:
    async def story() -> None:
        await asyncio.sleep(100)
        for _ in range(40):
            place = await _dies(tmp_path, boot_id="")
        assert not await place.is_useless()
        assert not (tmp_path / "place.json").exists()

    run(story())


def test_all_processes_of_a_boot_have_one_clock() -> None:
    """What is kept is of the loop's clock: it must be the machine's, not the process's."""

    async def off_s() -> float:
        return abs(asyncio.get_running_loop().time() - time.clock_gettime(time.CLOCK_MONOTONIC))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        assert runner.run(off_s()) < 5.0
    assert HoldRecord().from_s == 0.0
