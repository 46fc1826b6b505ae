"""A QEMU that is stopped (SIGSTOP) does not hold the end of its adapter up, nor the next one."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest
from libvirt_host import LibvirtHost, spec

from metastack.hypervisor.libvirt.hypervisor import LibvirtHypervisor

pytestmark = pytest.mark.libvirt


def adapter(host: LibvirtHost) -> LibvirtHypervisor:
    vnc = str(host.folder / "vnc")
    return LibvirtHypervisor(host.uri, force="qemu", barrier_command=host.barrier_command(), vnc_dir=vnc)


async def test_the_next_adapter_clears_a_hung_guest_away(host: LibvirtHost) -> None:
    first, guest = adapter(host), spec(host.disk("hung"), "hung")
    await first.open()
    await first.boot(guest)
    os.kill(host.qemu_pid(guest.uuid), signal.SIGSTOP)
    pause = asyncio.create_task(first.pause(guest.uuid))
    await asyncio.sleep(0.3)
    async with asyncio.timeout(5):
        await first.close()
    pause.cancel()
    second = adapter(host)
    await second.open()
    async with asyncio.timeout(15):
        await second.barrier()
        assert [domain.uuid for domain in await second.domains()] == [guest.uuid]
    async with asyncio.timeout(20):
        await second.kill(guest.uuid)
    await second.close()
