"""libvirtd loses its note of a running guest: it says "never started", and the guest writes on.

Seen: the agent undefined the domain and booted a second QEMU on the same host, beside the first one.
"""

from __future__ import annotations

import pytest
from libvirt_host import LibvirtHost, spec

from metastack.hypervisor.libvirt.hypervisor import LibvirtHypervisor
from metastack.ports import DomainState

pytestmark = pytest.mark.libvirt


async def test_a_qemu_lost_by_libvirtd_is_killed(host: LibvirtHost, hypervisor: LibvirtHypervisor) -> None:
    guest = spec(host.disk("lost"), "lost")
    await hypervisor.boot(guest)
    before = host.qemu_pid(guest.uuid)
    host.kill_libvirtd()
    for note in (host.folder / "run" / "qemu").glob("ms-*"):
        note.unlink()
    await hypervisor.barrier()
    domain = await hypervisor.domain(guest.uuid)
    assert domain is not None
    assert domain.state is DomainState.DEFINED, "libvirtd takes it for off"
    assert host.qemu_pid(guest.uuid) == before, "and it runs"
    assert (await hypervisor.emulators())[guest.uuid] == before
    await hypervisor.kill(guest.uuid)
    assert await hypervisor.domain(guest.uuid) is None
    assert guest.uuid not in await hypervisor.emulators()
    with pytest.raises(AssertionError, match="no QEMU"):
        host.qemu_pid(guest.uuid)
