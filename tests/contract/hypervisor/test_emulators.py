"""QEMU processes by the kernel's word, and what is noted of their clients: the twin and the real one alike."""

from __future__ import annotations

import pytest
from hypervisor_rig import Rig

from metastack.ports import Refused


async def test_only_a_running_guest_has_a_process(rig: Rig) -> None:
    spec = rig.spec()
    assert spec.uuid not in await rig.hypervisor.emulators()
    await rig.hypervisor.boot(spec)
    assert (await rig.hypervisor.emulators())[spec.uuid] > 0
    await rig.hypervisor.kill(spec.uuid)
    assert spec.uuid not in await rig.hypervisor.emulators()


async def test_clients_are_kept_when_session_and_epoch_change(rig: Rig) -> None:
    spec = rig.spec()
    await rig.hypervisor.boot(spec)
    clients = ("10.0.0.1:0/4711", "[fd00::1]:0/12")
    await rig.hypervisor.note_clients(spec.uuid, clients)
    await rig.hypervisor.retag(spec.uuid, 17, 4)
    domain = await rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    assert (domain.clients, domain.session, domain.epoch) == (clients, 17, 4)
    assert (domain.project, domain.name, domain.run) == (spec.project, spec.name, spec.run)
    assert domain.volume_uuid == spec.volume_uuid
    with pytest.raises(Refused):  # NotFound is one
        await rig.hypervisor.note_clients(rig.spec().uuid, clients)
