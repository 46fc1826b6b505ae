"""One private libvirtd for the whole run of this folder; a fresh adapter for each test."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from libvirt_host import LibvirtHost

from metastack.hypervisor.libvirt import LibvirtHypervisor


@pytest.fixture(scope="session")
def host() -> Iterator[LibvirtHost]:
    missing = [tool for tool in ("libvirtd", "virtlogd", "unshare", "nsenter") if not shutil.which(tool)]
    if missing or os.geteuid() != 0:
        pytest.skip(f"needs root and {missing or 'namespaces'}")
    host = LibvirtHost(Path(tempfile.mkdtemp(prefix="mshv")))
    try:
        host.start()
        yield host
    finally:
        host.stop()


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
