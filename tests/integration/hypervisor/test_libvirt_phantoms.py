"""A libvirtd that died before the fork leaves a domain that is no more; the barrier forgets it."""

from __future__ import annotations

import pytest
from libvirt_host import LibvirtHost, spec, until

from metastack.hypervisor.libvirt.hypervisor import LibvirtHypervisor
from metastack.ports import DomainState

pytestmark = pytest.mark.libvirt


async def test_the_barrier_forgets_a_phantom_and_keeps_the_living(
    host: LibvirtHost, hypervisor: LibvirtHypervisor
) -> None:
    living, phantom = spec(host.disk("living"), "living"), spec(host.disk("phantom"), "phantom")
    await hypervisor.boot(living)
    await hypervisor.boot(phantom)
    (status,) = (host.folder / "run/qemu").glob("*phantom*.xml")
    noted = status.read_text()
    pid = host.qemu_pid(living.uuid)
    # What a libvirtd notes before it forks: the same, without a process.
    old = host.libvirtd_pid()
    host.kill_libvirtd()
    until(lambda: host.inside("test", "-d", f"/proc/{old}/fd").returncode, 20, lambda: "libvirtd still there")
    host.inside("kill", "-9", noted.split("pid='")[1].split("'")[0])
    head, _, tail = noted.partition("pid='")
    status.write_text(head + "pid='0'" + tail.partition("'")[2])
    host.start_libvirtd()
    await hypervisor.barrier()
    states = {domain.uuid: domain.state for domain in await hypervisor.domains()}
    assert states == {living.uuid: DomainState.RUNNING, phantom.uuid: DomainState.DEFINED}
    assert host.qemu_pid(living.uuid) == pid, "a guest that lives is not touched"
    await hypervisor.kill(phantom.uuid)
    await hypervisor.boot(spec(host.disk("phantom"), "phantom"))
