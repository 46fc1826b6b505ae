"""The same rig over the in-memory twin and over a real libvirtd."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "integration" / "hypervisor"))

from hypervisor_rig import LibvirtRig, MemoryRig, Rig
from libvirt_host import host

from metastack.hypervisor.libvirt.hypervisor import LibvirtHypervisor
from metastack.hypervisor.twin.hypervisor import MemoryHypervisor

__all__ = ["host", "rig"]


@pytest.fixture(params=["memory", pytest.param("libvirt", marks=pytest.mark.libvirt)])
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    if request.param == "memory":
        memory = MemoryHypervisor(call_s=0.001, boot_s=0.01)
        await memory.open()
        yield MemoryRig(memory)
        await memory.close()
        return
    host = request.getfixturevalue("host")
    hypervisor = LibvirtHypervisor(
        host.uri, force="qemu", barrier_command=host.barrier_command(), vnc_dir=str(host.folder / "vnc")
    )
    await hypervisor.open()
    try:
        yield LibvirtRig(hypervisor, host)
        for domain in await hypervisor.domains():
            await hypervisor.kill(domain.uuid)
    finally:
        await hypervisor.close()
