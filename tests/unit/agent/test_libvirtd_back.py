"""After libvirtd came back: what no event told is found in seconds, not at the next full look."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from agent_rig import KEYS, lab_of, vm

from metastack.core.domains import EndReason
from metastack.core.model import VmStatus
from metastack.core.state.codec import decode
from metastack.lab.sim.engine.loop import run


@pytest.mark.parametrize("after_s", [0.0, 0.3, 1.0])
def test_a_qemu_that_dies_as_libvirtd_returns_is_seen_soon(tmp_path: Path, after_s: float) -> None:
    """No event: the callbacks are not registered yet, or the daemon has not reached its monitor yet."""

    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            host = lab.hosts[lab.where("hello")]
            await asyncio.sleep(40)
            twin = host.hypervisor
            twin.daemon_dies()
            await asyncio.sleep(1)
            twin.daemon_returns()
            await asyncio.sleep(after_s)
            tell, twin._post = twin._post, lambda uuid, what: None  # type: ignore[method-assign]
            twin._ended(spec.uuid, EndReason.CRASHED)
            twin._post = tell  # type: ignore[method-assign]

            def seen() -> bool:
                raw = lab.entry(KEYS.vm_status(vm("hello")))
                return raw is not None and decode(VmStatus, raw).crashes == 1

            await lab.until("seen", seen, 4)

    run(story())
