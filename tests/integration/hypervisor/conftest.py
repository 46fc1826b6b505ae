"""One private libvirtd for the whole run of this folder; a fresh adapter for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from libvirt_host import LibvirtHost, host

from metastack.hypervisor.libvirt.hypervisor import LibvirtHypervisor

__all__ = ["host", "hypervisor"]


@pytest.fixture
async def hypervisor(host: LibvirtHost) -> AsyncIterator[LibvirtHypervisor]:
    hypervisor = LibvirtHypervisor(
        host.uri, force="qemu", barrier_command=host.barrier_command(), vnc_dir=str(host.folder / "vnc")
    )
    await hypervisor.open()
    try:
        yield hypervisor
        for domain in await hypervisor.domains():
            await hypervisor.kill(domain.uuid)
    finally:
        await hypervisor.close()
