"""The watchdog guard on twins: a file stands in for the device (no real one can be tested here)."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from agent_rig import Host, Lab, lab_of

from metastack.agent.fencing.watchdog import LOOK_EVERY_S, PATIENCE_S, Watchdog, WatchdogDevice
from metastack.lab.sim.engine.loop import run
from metastack.ports import Unavailable


async def guarded(lab: Lab, folder: Path) -> tuple[Host, Path]:
    """A node with a guest and a guard."""
    await lab.want("hello")
    await lab.until("running", lambda: lab.where("hello"))
    host = lab.hosts[lab.where("hello")]
    device = folder / "watchdog"
    device.touch()
    assert host.agent is not None
    guard = lab.group.create_task(Watchdog(host.agent.node, WatchdogDevice(str(device))).run())
    host._task.add_done_callback(lambda _: guard.cancel())  # type: ignore[union-attr]
    return host, device


async def hang(*_: object) -> None:
    await asyncio.Event().wait()


def test_an_etcd_outage_of_ten_minutes_arms_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host, device = await guarded(lab, tmp_path)
            lab.cluster.outage()
            await asyncio.sleep(600)
            assert device.read_bytes() == b""
            lab.cluster.recover()
            await lab.all_ready()
            assert lab.where("hello") == host.name
            assert device.read_bytes() == b""

    run(story())


def test_a_fence_that_works_arms_and_disarms(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host, device = await guarded(lab, tmp_path)
            # A guest that ends at once needs no device: the block is noticed as fast as the guard looks.
            host.hypervisor.slow_s = lambda what: 2 * LOOK_EVERY_S if what == "kill" else 0.0
            lab.pool.blocked.add(host.address)
            await lab.until("armed", lambda: device.read_bytes(), 60)
            await lab.until("disarmed", lambda: device.read_bytes().endswith(b"V"), 60)
            await lab.until("let in again", lambda: host.address not in lab.pool.blocked, 60)

    run(story())


def test_guests_that_cannot_be_killed_are_left_to_the_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host, device = await guarded(lab, tmp_path)
            monkeypatch.setattr(host.hypervisor, "kill", hang)
            lab.pool.blocked.add(host.address)
            await lab.until("armed", lambda: device.read_bytes(), 60)
            await asyncio.sleep(PATIENCE_S + 3 * LOOK_EVERY_S)
            petted = device.read_bytes()
            assert b"V" not in petted
            assert 2 <= len(petted) <= PATIENCE_S / LOOK_EVERY_S + 2
            await asyncio.sleep(300)
            assert device.read_bytes() == petted, "petting ended: the device bites"

    run(story())


def test_a_hung_libvirtd_or_silent_storage_arms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host, device = await guarded(lab, tmp_path)
            await asyncio.sleep(2 * LOOK_EVERY_S)
            monkeypatch.setattr(host.hypervisor, "domains", hang)
            lab.pool.fail = lambda what, _: Unavailable("silent") if what == "blocked" else None
            await asyncio.sleep(120)
            assert device.read_bytes() == b""
            # The guests were seen before the hang: a block then arms.
            lab.pool.fail = lambda _what, _address: None
            lab.pool.blocked.add(host.address)
            await lab.until("armed", lambda: device.read_bytes(), 60)

    run(story())


def test_a_missing_device_is_reported_only(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            host, device = await guarded(lab, tmp_path)
            device.unlink()
            lab.pool.blocked.add(host.address)
            await lab.until("the way back", lambda: host.address not in lab.pool.blocked, 60)
            assert not device.exists()

    run(story())
