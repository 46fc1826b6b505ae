"""What every Hypervisor must do, the twin and the real one alike."""

from __future__ import annotations

import asyncio
import uuid

import msgspec
import pytest
from hypervisor_rig import Rig, Watcher, eventually, look_until
from libvirt_host import read_until

from metastack.ports import (
    CannotStart,
    DomainState,
    EndReason,
    Exists,
    InUse,
    NicSpec,
    NodeFault,
    NotFound,
    Refused,
    Unavailable,
    UnknownOutcome,
)


async def test_boot_shows_the_metadata_and_kill_leaves_nothing(rig: Rig) -> None:
    spec = rig.spec()
    await rig.hypervisor.boot(spec)
    domain = await rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    assert domain.state is DomainState.RUNNING
    assert (domain.project, domain.name, domain.uuid) == (spec.project, spec.name, spec.uuid)
    assert (domain.session, domain.epoch, domain.run) == (spec.session, spec.epoch, spec.run)
    assert (domain.volume_uuid, domain.managed, domain.end) == (spec.volume_uuid, True, EndReason.NONE)
    assert domain in await rig.hypervisor.domains()
    await rig.hypervisor.kill(spec.uuid)
    assert await rig.hypervisor.domain(spec.uuid) is None
    await rig.hypervisor.kill(spec.uuid)


async def test_a_second_boot_of_a_uuid_is_refused(rig: Rig) -> None:
    spec = rig.spec()
    await rig.hypervisor.boot(spec)
    with pytest.raises(Exists):
        await rig.hypervisor.boot(msgspec.structs.replace(spec, epoch=spec.epoch + 1))
    domain = await rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    assert (domain.state, domain.epoch) == (DomainState.RUNNING, spec.epoch)


async def test_two_vms_of_the_same_name_coexist(rig: Rig) -> None:
    first, second = rig.spec(), rig.spec()
    await rig.hypervisor.boot(first)
    await rig.hypervisor.boot(second)
    assert {first.uuid, second.uuid} <= {domain.uuid for domain in await rig.hypervisor.domains()}


async def test_a_boot_on_a_used_disk_leaves_no_domain(rig: Rig) -> None:
    first = rig.spec()
    await rig.hypervisor.boot(first)
    second = msgspec.structs.replace(rig.spec(), disk=first.disk)
    with pytest.raises(InUse):
        await rig.hypervisor.boot(second)
    assert await rig.hypervisor.domain(second.uuid) is None
    await rig.hypervisor.kill(first.uuid)
    await rig.hypervisor.boot(second)


async def test_pause_and_resume(rig: Rig) -> None:
    spec = rig.spec()
    watcher = Watcher(rig.hypervisor)
    await rig.hypervisor.boot(spec, paused=True)
    assert (await look_until(rig.hypervisor, spec.uuid, lambda _: True)).state is DomainState.PAUSED
    await rig.hypervisor.resume(spec.uuid)
    await rig.hypervisor.resume(spec.uuid)
    assert (await look_until(rig.hypervisor, spec.uuid, lambda _: True)).state is DomainState.RUNNING
    await rig.hypervisor.pause(spec.uuid)
    await rig.hypervisor.pause(spec.uuid)
    assert (await look_until(rig.hypervisor, spec.uuid, lambda _: True)).state is DomainState.PAUSED
    await watcher.wait(spec.uuid, "defined", "started", "resumed", "suspended")
    await watcher.close()


async def test_a_guest_that_powers_itself_off_is_shut_down(rig: Rig) -> None:
    spec = rig.spec()
    watcher = Watcher(rig.hypervisor)
    await rig.hypervisor.boot(spec)
    await rig.guest_is_up(spec.uuid)
    await rig.guest_powers_off(spec.uuid)
    await watcher.wait(spec.uuid, "stopped")
    domain = await rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    assert (domain.state, domain.end) == (DomainState.DEFINED, EndReason.SHUTDOWN)
    assert domain.epoch == spec.epoch
    await watcher.close()


async def test_a_guest_follows_a_graceful_request(rig: Rig) -> None:
    spec = rig.spec()
    await rig.hypervisor.boot(spec)
    await rig.guest_is_up(spec.uuid)
    await rig.hypervisor.shutdown(spec.uuid)
    domain = await look_until(rig.hypervisor, spec.uuid, lambda seen: seen.state is DomainState.DEFINED)
    assert domain.end is EndReason.SHUTDOWN
    await rig.hypervisor.shutdown(spec.uuid)
    await rig.hypervisor.kill(spec.uuid)
    await rig.hypervisor.shutdown(spec.uuid)


async def test_a_dead_qemu_is_a_crash(rig: Rig) -> None:
    spec = rig.spec()
    watcher = Watcher(rig.hypervisor)
    await rig.hypervisor.boot(spec)
    await rig.qemu_dies(spec.uuid)
    await watcher.wait(spec.uuid, "crashed")
    domain = await rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    assert (domain.state, domain.end) == (DomainState.DEFINED, EndReason.CRASHED)
    await rig.hypervisor.kill(spec.uuid)
    await rig.hypervisor.boot(spec)
    await watcher.close()


async def test_retag_of_a_running_and_of_an_ended_domain(rig: Rig) -> None:
    spec = rig.spec()
    await rig.hypervisor.boot(spec)
    await rig.hypervisor.retag(spec.uuid, 1 << 45, (1 << 45) + 1)
    domain = await rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    assert (domain.session, domain.epoch, domain.run) == (1 << 45, (1 << 45) + 1, spec.run)
    assert (domain.volume_uuid, domain.state) == (spec.volume_uuid, DomainState.RUNNING)
    await rig.qemu_dies(spec.uuid)
    await look_until(rig.hypervisor, spec.uuid, lambda seen: seen.state is DomainState.DEFINED)
    await rig.hypervisor.retag(spec.uuid, 3, 4)
    domain = await rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    assert (domain.session, domain.epoch, domain.end) == (3, 4, EndReason.CRASHED)


async def test_a_domain_says_whose_it_is_and_keeps_that(rig: Rig) -> None:
    spec = msgspec.structs.replace(rig.spec(), claim_node="n2")
    await rig.hypervisor.boot(spec)
    await rig.hypervisor.retag(spec.uuid, 3, 4, "n9")
    domain = await rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    assert (domain.node, domain.session) == ("n2", 3), "it is told once, at its boot"


async def test_an_older_domain_is_updated_by_retag(rig: Rig) -> None:
    spec = msgspec.structs.replace(rig.spec(), claim_node="")
    await rig.hypervisor.boot(spec)
    await rig.hypervisor.retag(spec.uuid, 3, 4, "n2")
    domain = await rig.hypervisor.domain(spec.uuid)
    assert domain is not None
    assert domain.node == "n2"


async def test_one_libvirt_has_one_agent(rig: Rig) -> None:
    other = rig.beside()
    await rig.hypervisor.acquire_host("n2")
    await rig.hypervisor.acquire_host("n2")
    with pytest.raises(InUse, match="that of node n2"):
        await other.acquire_host("n9")
    await rig.hypervisor.release_host()
    await other.acquire_host("n9")
    with pytest.raises(InUse, match="that of node n9"):
        await rig.hypervisor.acquire_host("n2")
    await other.release_host()


async def test_what_needs_a_domain_says_that_there_is_none(rig: Rig) -> None:
    absent = str(uuid.uuid4())
    assert await rig.hypervisor.domain(absent) is None
    for call in (
        rig.hypervisor.pause(absent),
        rig.hypervisor.resume(absent),
        rig.hypervisor.console(absent),
    ):
        with pytest.raises(NotFound):
            await call
    with pytest.raises(Refused):
        await rig.hypervisor.retag(absent, 1, 1)
    await rig.hypervisor.shutdown(absent)


async def test_the_console_echoes_and_is_taken_over(rig: Rig) -> None:
    spec = rig.spec()
    await rig.hypervisor.boot(spec)
    first = await rig.hypervisor.console(spec.uuid)
    await first.write(b"one")
    await read_until(first, b"one")
    second = await rig.hypervisor.console(spec.uuid)
    async with asyncio.timeout(10):
        while await first.read():
            pass
    await second.write(b"2nd")
    await read_until(second, b"2nd")
    await rig.hypervisor.kill(spec.uuid)
    async with asyncio.timeout(10):
        while await second.read():
            pass
    await second.close()
    await first.close()


async def test_an_order_that_has_no_answer_is_its_domains_alone(rig: Rig) -> None:
    """One stopped QEMU with a pause in flight had its whole node fenced."""
    hung, well = rig.spec(), rig.spec()
    for spec in (hung, well):
        await rig.hypervisor.boot(spec)
    rig.qemu_stops(hung.uuid)
    pauses = [asyncio.create_task(rig.hypervisor.pause(hung.uuid)) for _ in range(8)]
    await asyncio.sleep(0.2)
    async with asyncio.timeout(15):  # on one connection, with eight orders in it: 30 s and more
        assert len(await rig.hypervisor.domains()) == 2
        await rig.hypervisor.pause(well.uuid)
        await rig.hypervisor.resume(well.uuid)
        await rig.hypervisor.quiesce(well.uuid)
        await rig.hypervisor.quiesce_starts()
        assert not any(pause.done() for pause in pauses)
        for _ in range(4):  # also in the turn of the loop in which their time is over
            await rig.hypervisor.interrupt()
            await asyncio.sleep(0)
        outcomes = await asyncio.gather(*pauses, return_exceptions=True)
    assert all(isinstance(outcome, UnknownOutcome) for outcome in outcomes), outcomes
    with pytest.raises(Unavailable, match="nothing was sent"):
        await rig.hypervisor.resume(hung.uuid)
    with pytest.raises(Unavailable, match="nothing was sent"):
        await rig.hypervisor.boot(hung)
    for whose in ("", hung.uuid):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await rig.hypervisor.quiesce(whose)
    assert not await rig.hypervisor.astray()
    async with asyncio.timeout(20):  # libvirtd waits 10 s for a QEMU before it kills it
        await rig.hypervisor.kill(hung.uuid)
        await rig.hypervisor.quiesce()
    assert [domain.uuid for domain in await rig.hypervisor.domains()] == [well.uuid]


async def test_a_barrier_ends_orders_to_a_qemu_that_hangs(rig: Rig) -> None:
    spec = rig.spec()
    await rig.hypervisor.boot(spec)
    rig.qemu_stops(spec.uuid)
    pauses = [asyncio.create_task(rig.hypervisor.pause(spec.uuid)) for _ in range(8)]
    await asyncio.sleep(0.2)
    async with asyncio.timeout(15):
        await rig.hypervisor.barrier()
        await rig.hypervisor.quiesce()
        outcomes = await asyncio.gather(*pauses, return_exceptions=True)
    assert all(isinstance(outcome, UnknownOutcome) for outcome in outcomes), outcomes
    assert not await rig.hypervisor.astray()
    assert [domain.uuid for domain in await rig.hypervisor.domains()] == [spec.uuid]
    rig.qemu_goes_on(spec.uuid)
    await rig.hypervisor.kill(spec.uuid)


async def test_a_cancelled_boot_is_in_flight_until_landed(rig: Rig) -> None:
    spec = rig.spec()
    watcher = Watcher(rig.hypervisor)
    boot = asyncio.create_task(rig.hypervisor.boot(spec))
    await watcher.wait(spec.uuid, "defined")
    await watcher.close()
    boot.cancel()
    await asyncio.gather(boot, return_exceptions=True)
    await rig.hypervisor.quiesce()
    before = await rig.hypervisor.domain(spec.uuid)
    await asyncio.sleep(0.3)
    assert await rig.hypervisor.domain(spec.uuid) == before
    assert before is not None
    assert before.state is DomainState.RUNNING


async def test_a_barrier_keeps_guests_and_how_others_ended(rig: Rig) -> None:
    running, ended = rig.spec(), rig.spec()
    await rig.hypervisor.boot(running)
    await rig.hypervisor.boot(ended)
    await rig.guest_is_up(ended.uuid)
    await rig.guest_powers_off(ended.uuid)
    await look_until(rig.hypervisor, ended.uuid, lambda seen: seen.state is DomainState.DEFINED)
    watcher = Watcher(rig.hypervisor)
    await rig.hypervisor.barrier()
    await watcher.wait("", "reconnected")
    first = await rig.hypervisor.domain(running.uuid)
    second = await rig.hypervisor.domain(ended.uuid)
    assert first is not None
    assert second is not None
    assert (first.state, second.end) == (DomainState.RUNNING, EndReason.SHUTDOWN)
    # A libvirtd that starts answers before it has the guest's monitor again, and tells nobody of one that dies
    # before that (test_libvirt_faults). An order to the guest waits until it has.
    await rig.hypervisor.pause(running.uuid)
    await rig.hypervisor.resume(running.uuid)
    await rig.qemu_dies(running.uuid)
    await watcher.wait(running.uuid, "crashed")
    await watcher.close()


async def test_closing_ends_the_event_stream(rig: Rig) -> None:
    watcher = Watcher(rig.hypervisor)
    await asyncio.sleep(0)
    await rig.hypervisor.close()
    await eventually(lambda: watcher._task.done(), 5, lambda: watcher.seen)
    await rig.hypervisor.open()


async def test_facts(rig: Rig) -> None:
    facts = await rig.hypervisor.facts()
    assert facts.uuid
    assert facts.capacity.cpus >= 1
    assert facts.capacity.memory_mib > 500
    assert facts.hypervisor == "qemu"
    assert facts.hypervisor_why
    assert facts.versions


async def test_a_host_fault_is_reported_as_the_hosts(rig: Rig) -> None:
    spec = msgspec.structs.replace(rig.spec(), nics=(NicSpec(mac="52:54:00:00:00:77", bridge="no-such-br"),))
    rig.refuses_bridges()
    with pytest.raises(CannotStart) as caught:
        await rig.hypervisor.boot(spec)
    assert isinstance(caught.value, NodeFault)
    assert await rig.hypervisor.domain(spec.uuid) is None
