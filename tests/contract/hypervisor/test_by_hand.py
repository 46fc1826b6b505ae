"""What somebody does to a guest with virsh, seen through the port: the twin and the real one alike."""

from __future__ import annotations

import msgspec
from hypervisor_rig import Rig, look_until

from metastack.core.domains import Live
from metastack.ports import DomainState, EndReason


async def test_destroyed_by_hand(rig: Rig) -> None:
    spec = rig.spec()
    await rig.hypervisor.boot(spec)
    await rig.by_hand(spec.uuid, "destroy")
    domain = await look_until(rig.hypervisor, spec.uuid, lambda seen: seen.state is DomainState.DEFINED)
    assert domain.end is EndReason.DESTROYED


async def test_a_saved_guest_is_told_from_one_that_is_off(rig: Rig) -> None:
    spec = rig.spec()
    await rig.hypervisor.boot(spec)
    await rig.guest_is_up(spec.uuid)
    await rig.by_hand(spec.uuid, "save")
    domain = await look_until(rig.hypervisor, spec.uuid, lambda seen: seen.state is DomainState.DEFINED)
    assert domain.end is EndReason.SAVED
    await rig.hypervisor.barrier()
    again = await look_until(rig.hypervisor, spec.uuid, lambda _: True)
    assert again.end is EndReason.SAVED, "libvirtd forgets why it is off, and keeps the image"
    await rig.hypervisor.kill(spec.uuid)
    await rig.hypervisor.boot(spec)
    booted = await look_until(rig.hypervisor, spec.uuid, lambda seen: seen.state is DomainState.RUNNING)
    assert booted.end is EndReason.NONE


async def test_undefined_while_it_runs(rig: Rig) -> None:
    spec = rig.spec()
    await rig.hypervisor.boot(spec)
    await rig.guest_is_up(spec.uuid)
    await rig.by_hand(spec.uuid, "undefine")
    domain = await look_until(rig.hypervisor, spec.uuid, lambda seen: seen.transient)
    assert (domain.state, domain.managed) == (DomainState.RUNNING, True)
    await rig.hypervisor.retag(spec.uuid, spec.session + 1, spec.epoch)
    domain = await look_until(rig.hypervisor, spec.uuid, lambda seen: not seen.transient)
    assert (domain.session, domain.volume_uuid) == (spec.session + 1, spec.volume_uuid)
    await rig.guest_powers_off(spec.uuid)
    ended = await look_until(rig.hypervisor, spec.uuid, lambda seen: seen.state is DomainState.DEFINED)
    assert ended.end is EndReason.SHUTDOWN
    await rig.hypervisor.kill(spec.uuid)
    assert await rig.hypervisor.domain(spec.uuid) is None


async def test_undefined_and_switched_off_before_it_was_defined_again(rig: Rig) -> None:
    spec = rig.spec()
    await rig.hypervisor.boot(spec)
    await rig.guest_is_up(spec.uuid)
    await rig.by_hand(spec.uuid, "undefine")
    await look_until(rig.hypervisor, spec.uuid, lambda seen: seen.transient)
    await rig.guest_powers_off(spec.uuid)
    ended = await look_until(rig.hypervisor, spec.uuid, lambda seen: seen.state is DomainState.DEFINED)
    assert (ended.end, ended.epoch, ended.project) == (EndReason.SHUTDOWN, spec.epoch, spec.project)
    await rig.hypervisor.kill(spec.uuid)
    assert await rig.hypervisor.domain(spec.uuid) is None
    await rig.hypervisor.boot(spec)
    await look_until(rig.hypervisor, spec.uuid, lambda seen: seen.state is DomainState.RUNNING)


async def test_what_a_domain_is_made_of(rig: Rig) -> None:
    spec = rig.spec()
    await rig.hypervisor.boot(spec)
    made = Live(
        disk=spec.disk.path,
        nics=tuple((nic.mac, nic.bridge) for nic in spec.nics),
        cpus=spec.cpus,
        memory_mib=spec.memory_mib,
    )
    assert await rig.hypervisor.live(spec.uuid) == made
    await rig.guest_is_up(spec.uuid)
    await rig.by_hand(spec.uuid, "snapshot")
    after = await rig.hypervisor.live(spec.uuid)
    assert after.disk != spec.disk.path and after.disk.endswith("overlay")
    assert msgspec.structs.replace(after, disk=made.disk) == made
