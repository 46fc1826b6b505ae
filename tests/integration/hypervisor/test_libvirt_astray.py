"""A libvirtd that hangs past its keepalive: the connection ends, and what it was sent is carried out later."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest
from libvirt_host import LibvirtHost, spec

from metastack.hypervisor.libvirt.hypervisor import LibvirtHypervisor
from metastack.ports import DomainState, UnknownOutcome

sys.path.insert(0, str(Path(__file__).parents[2] / "contract" / "hypervisor"))
from hypervisor_rig import Watcher, look_until

pytestmark = pytest.mark.libvirt


@pytest.mark.proof
async def test_a_late_start_is_known_to_the_adapter(host: LibvirtHost, hypervisor: LibvirtHypervisor) -> None:
    guest = spec(host.disk("astray"), "astray")
    watcher = Watcher(hypervisor)
    assert not await hypervisor.astray()
    pid = str(host.libvirtd_pid())
    boot = asyncio.create_task(hypervisor.boot(guest))
    await watcher.wait(guest.uuid, "defined")
    host.inside("kill", "-STOP", pid)
    try:
        async with asyncio.timeout(60):
            with pytest.raises(UnknownOutcome, match="lost libvirtd"):
                await boot
            await hypervisor.quiesce()
        assert await hypervisor.astray(), "quiesce cannot wait for it, so it has to be said"
    finally:
        host.inside("kill", "-CONT", pid)
    await watcher.wait("", "reconnected")
    landed = await look_until(hypervisor, guest.uuid, lambda seen: seen.state is DomainState.RUNNING)
    print("landed late:", landed)
    assert await hypervisor.astray()
    await hypervisor.barrier()
    assert not await hypervisor.astray()
    assert (await look_until(hypervisor, guest.uuid, lambda _: True)).state is DomainState.RUNNING
    await watcher.close()


async def test_a_look_that_loses_its_connection_leaves_nothing_astray(
    host: LibvirtHost, hypervisor: LibvirtHypervisor
) -> None:
    watcher = Watcher(hypervisor)
    pid = str(host.libvirtd_pid())
    host.inside("kill", "-STOP", pid)
    look = asyncio.create_task(hypervisor.domains())
    await asyncio.sleep(0)
    host.kill_libvirtd()
    with pytest.raises(Exception, match=r"lost libvirtd|not connected"):
        await look
    host.start_libvirtd()
    await watcher.wait("", "reconnected")
    assert not await hypervisor.astray()
    await watcher.close()
