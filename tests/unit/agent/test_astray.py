"""Calls astray: a libvirtd that hung, whose connection ended, still has what was sent to it."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from agent_rig import KEYS, lab_of, vm

from metastack.core.model import Power
from metastack.core.state.codec import encode
from metastack.lab.sim.engine.loop import run


def test_a_stale_power_button_spares_the_next_run(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            host = lab.hosts["n1"]
            assert host.agent is not None
            spec = await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            first = host.agent.node.session.number
            host.hypervisor.slow_s = lambda what: 30.0 if what == "shutdown" else 0.0
            off = msgspec.structs.replace(spec, power=Power.OFF)
            await lab.put(KEYS.vm_spec(vm("hello")), encode(off))
            await asyncio.sleep(2)  # the button is pressed, and hangs in libvirtd
            host.hypervisor.slow_s = lambda _what: 0.0
            host.hypervisor.connection_ends()
            again = msgspec.structs.replace(spec, run=spec.run + 1)
            await lab.put(KEYS.vm_spec(vm("hello")), encode(again))
            await lab.until(
                "running anew", lambda: [d for d in host.hypervisor.active() if d.run == again.run], 20
            )
            await asyncio.sleep(60)
            assert lab.where("hello") == "n1", "the old run's power button reached the new one"
            assert host.agent.node.session.number > first, "a session that knows of strays takes the way back"
            assert not await host.hypervisor.astray()

    run(story())


def test_nothing_is_astray_after_a_call_that_only_looks(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            host = lab.hosts["n1"]
            assert host.agent is not None
            await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            first = host.agent.node.session.number
            host.hypervisor.slow_s = lambda what: 5.0 if what in ("domain", "domains") else 0.0
            await asyncio.sleep(61)  # a full look is under way
            host.hypervisor.slow_s = lambda _what: 0.0
            host.hypervisor.connection_ends()
            await asyncio.sleep(10)
            assert host.agent.node.session.number == first
            assert lab.where("hello") == "n1"

    run(story())


def test_calls_in_flight_leave_no_clean_exit_mark(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            host = lab.hosts["n1"]
            spec = await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            host.hypervisor.slow_s = lambda what: 30.0 if what == "shutdown" else 0.0
            await lab.put(KEYS.vm_spec(vm("hello")), encode(msgspec.structs.replace(spec, power=Power.OFF)))
            await asyncio.sleep(2)
            stop = asyncio.create_task(host.stop())
            await asyncio.sleep(1)
            host.hypervisor.connection_ends()
            await stop
            assert not (host.folder / "clean-exit").exists()
            host.hypervisor.slow_s = lambda _what: 0.0
            again = msgspec.structs.replace(spec, run=spec.run + 1)
            await lab.put(KEYS.vm_spec(vm("hello")), encode(again))
            host.start()
            await lab.until(
                "running anew", lambda: [d for d in host.hypervisor.active() if d.run == again.run], 20
            )
            await asyncio.sleep(60)
            assert lab.where("hello") == "n1"

    run(story())
