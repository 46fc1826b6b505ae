"""The agent's own code on twins: create, stop, delete, and everything that may go wrong in between."""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from agent_rig import KEYS, lab_of, vm, vm_spec

from metastack.core.model import Claim, Fence, Halt, Phase, Placement, Power, VmStatus, resolved_claim
from metastack.core.state.codec import decode, encode
from metastack.lab.sim.engine.loop import run


def _status(lab, name: str) -> VmStatus | None:
    raw = lab.entry(KEYS.vm_status(vm(name)))
    return decode(VmStatus, raw) if raw else None


def _phase(lab, name: str) -> Phase | None:
    status = _status(lab, name)
    return status.phase if status else None


def _claim(lab, name: str) -> Claim | None:
    entry = lab.cluster.get(KEYS.claim(vm(name)))
    return resolved_claim(decode(Claim, entry.value), entry.mod_revision) if entry else None


def test_a_vm_is_claimed_once_booted_and_published(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await lab.want("hello")
            await lab.until("running", lambda: _phase(lab, "hello") is Phase.RUNNING)
            claim = _claim(lab, "hello")
            assert claim is not None and claim.node == lab.where("hello")
            status = _status(lab, "hello")
            assert status is not None and status.epoch == claim.epoch
            assert list(lab.pool.disks) == [vm_spec("hello").volume_uuid]

    run(story())


def test_at_most_four_writes_from_spec_to_running(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await asyncio.sleep(5)  # announcements settle
            before = lab.cluster.revision
            await lab.want("hello")
            await lab.until("running", lambda: _phase(lab, "hello") is Phase.RUNNING)
            assert lab.cluster.revision - before <= 4

    run(story())


def test_delete_removes_domain_claim_and_disk(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.until("gone", lambda: not lab.where("hello") and not _claim(lab, "hello"))
            await lab.until("disk in the trash", lambda: not lab.pool.disks and lab.pool.trash)
            await lab.until("record gone", lambda: not lab.entry(KEYS.volume("default", spec.volume_uuid)))

    run(story())


def test_deleting_a_vm_spares_its_namesake(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            old = await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            new = vm_spec("hello", uuid="99999999-0000-4000-8000-00000000000a",
                          volume_uuid="99999999-0000-4000-8000-00000000000b")  # fmt: skip
            await lab.put(KEYS.vm_spec(new.id), encode(new))
            await lab.until(
                "the new one runs",
                lambda: any(d.uuid == new.uuid for h in lab.hosts.values() for d in h.hypervisor.active()),
            )
            await lab.until("the old disk is gone", lambda: list(lab.pool.disks) == [new.volume_uuid])
            assert list(lab.pool.trash) == [old.volume_uuid]
            assert lab.where("hello")

    run(story())


def test_deleted_while_every_agent_was_down(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            for host in lab.hosts.values():
                await host.crash()
            await lab.delete(KEYS.vm_spec(spec.id))
            for host in lab.hosts.values():
                host.start()
            await lab.until("destroyed", lambda: not lab.where("hello") and not _claim(lab, "hello"))
            await lab.until("disk gone", lambda: not lab.pool.disks)

    run(story())


def test_an_off_vm_that_is_deleted_loses_its_disk(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("hello")
            await lab.until("running", lambda: lab.where("hello"))
            off = msgspec.structs.replace(spec, power=Power.OFF)
            await lab.put(KEYS.vm_spec(spec.id), encode(off))
            await lab.until("released", lambda: not _claim(lab, "hello"))
            assert lab.pool.disks
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.until("disk gone", lambda: not lab.pool.disks)

    run(story())


def test_power_cut_fences_and_restarts_with_a_newer_epoch(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await lab.want("hello")
            await lab.until("running", lambda: _phase(lab, "hello") is Phase.RUNNING)
            first, before = lab.where("hello"), _claim(lab, "hello")
            await lab.hosts[first].power_cut()
            took_s = await lab.until(
                "elsewhere",
                lambda: lab.where("hello") not in ("", first) and _phase(lab, "hello") is Phase.RUNNING,
            )
            after = _claim(lab, "hello")
            assert before and after and after.epoch > before.epoch
            assert took_s < 5 + 2
            assert lab.hosts[first].address in lab.pool.blocked
            fence = decode(Fence, lab.entry(KEYS.fence(first)) or b"")
            assert fence.through >= before.session and fence.receipt is not None
            # and the way back: it unblocks itself and is ready again
            lab.hosts[first].start()
            await lab.all_ready()
            assert lab.hosts[first].address not in lab.pool.blocked

    run(story())


def test_agent_crash_and_restart_adopts(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await lab.want("hello")
            await lab.until("running", lambda: _phase(lab, "hello") is Phase.RUNNING)
            here, before = lab.where("hello"), _claim(lab, "hello")
            domain = lab.hosts[here].hypervisor.active()[0]
            await lab.hosts[here].crash()
            lab.hosts[here].start()
            await lab.until("adopted", lambda: (c := _claim(lab, "hello")) and c.session != before.session)
            await lab.until(
                "retagged", lambda: lab.hosts[here].hypervisor.active()[0].session != domain.session
            )
            after = _claim(lab, "hello")
            assert after.epoch == before.epoch and after.node == here
            assert lab.hosts[here].hypervisor.active()[0].epoch == domain.epoch

    run(story())


def test_graceful_stop_gives_an_upgrade_time(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await lab.want("hello")
            await lab.until("running", lambda: _phase(lab, "hello") is Phase.RUNNING)
            here = lab.where("hello")
            await lab.hosts[here].stop()
            await asyncio.sleep(30)
            assert lab.where("hello") == here and not lab.pool.blocked
            lab.hosts[here].start()
            await lab.all_ready()
            assert lab.where("hello") == here

    run(story())


def test_etcd_outage_costs_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            for name in ("a", "b", "c", "d"):
                await lab.want(name)
            await lab.until("running", lambda: all(_phase(lab, n) is Phase.RUNNING for n in "abcd"))
            where = {n: lab.where(n) for n in "abcd"}
            epochs = {n: _claim(lab, n).epoch for n in "abcd"}
            lab.cluster.outage()
            await asyncio.sleep(600)
            lab.cluster.recover()
            await lab.all_ready()
            await asyncio.sleep(60)
            assert {n: lab.where(n) for n in "abcd"} == where
            assert {n: _claim(lab, n).epoch for n in "abcd"} == epochs
            assert not lab.pool.blocked

    run(story())


def test_guest_powers_itself_off_and_stays_off(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("hello")
            await lab.until("running", lambda: _phase(lab, "hello") is Phase.RUNNING)
            here = lab.where("hello")
            lab.hosts[here].hypervisor.guest_powers_off(spec.uuid)
            await lab.until("released", lambda: not _claim(lab, "hello"))
            assert decode(Halt, lab.entry(KEYS.halt(spec.id)) or b"").run == 1
            await asyncio.sleep(60)
            assert not lab.where("hello")
            await lab.put(KEYS.vm_spec(spec.id), encode(msgspec.structs.replace(spec, run=2)))
            await lab.until("started again", lambda: lab.where("hello"))
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.until("halt gone too", lambda: not lab.entry(KEYS.halt(spec.id)))

    run(story())


def test_crashing_guest_backs_off(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            spec = await lab.want("hello")
            waits = []
            for _ in range(4):
                await lab.until("running", lambda: lab.where("hello"), 300)
                lab.hosts["n1"].hypervisor.crash(spec.uuid)
                waits.append(await lab.until("again", lambda: not lab.where("hello"))
                             + await lab.until("again", lambda: lab.where("hello"), 300))  # fmt: skip
            assert waits[0] < 3 < waits[1] < 6 < waits[2] < 10 < waits[3], waits
            await lab.until("said", lambda: (s := _status(lab, "hello")) and s.crashes == 4)

    run(story())


def test_restart_and_pause(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("hello")
            await lab.until("running", lambda: _phase(lab, "hello") is Phase.RUNNING)
            epoch = _claim(lab, "hello").epoch
            paused = msgspec.structs.replace(spec, paused_epoch=epoch)
            await lab.put(KEYS.vm_spec(spec.id), encode(paused))
            await lab.until("paused", lambda: _phase(lab, "hello") is Phase.PAUSED)
            await lab.put(KEYS.vm_spec(spec.id), encode(spec))
            await lab.until("resumed", lambda: _phase(lab, "hello") is Phase.RUNNING)
            await lab.put(KEYS.vm_spec(spec.id), encode(msgspec.structs.replace(spec, run=2)))
            await lab.until(
                "restarted", lambda: any(d.run == 2 for h in lab.hosts.values() for d in h.hypervisor.active())
            )
            assert _claim(lab, "hello").epoch == epoch

    run(story())


def test_a_paused_vm_of_a_dead_node_comes_back_running(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("hello")
            await lab.until("running", lambda: _phase(lab, "hello") is Phase.RUNNING)
            paused = msgspec.structs.replace(spec, paused_epoch=_claim(lab, "hello").epoch)
            await lab.put(KEYS.vm_spec(spec.id), encode(paused))
            await lab.until("paused", lambda: _phase(lab, "hello") is Phase.PAUSED)
            first = lab.where("hello")
            await lab.hosts[first].power_cut()
            await lab.until("running", lambda: _phase(lab, "hello") is Phase.RUNNING and lab.where("hello"))
            assert "paused" in _status(lab, "hello").message

    run(story())


def test_a_vm_taken_over_while_off_never_starts(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("hello")
            await lab.until("running", lambda: _phase(lab, "hello") is Phase.RUNNING)
            await lab.hosts[lab.where("hello")].power_cut()
            await lab.put(KEYS.vm_spec(spec.id), encode(msgspec.structs.replace(spec, power=Power.OFF)))
            before = lab.cluster.revision
            await lab.until("released", lambda: _claim(lab, "hello") is None)
            # Every status that was ever published, not those that a look happens to catch.
            told = [
                decode(VmStatus, event.entry.value).phase
                for event in lab.cluster.events_after(before, KEYS.vm_status(vm("hello")))
                if event.entry is not None
            ]
            assert told, "the takeover publishes a status"
            assert Phase.STARTING not in told
            assert not lab.where("hello")

    run(story())


def test_the_brake_holds_when_two_of_three_vanish(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            for name in "abc":
                await lab.want(name, placement=Placement(node=f"n{'abc'.index(name) + 1}"))
            await lab.until("running", lambda: all(_phase(lab, n) is Phase.RUNNING for n in "abc"))
            await lab.hosts["n1"].power_cut()
            await lab.hosts["n2"].power_cut()
            await asyncio.sleep(120)
            assert not lab.pool.blocked
            assert "brake" in lab.hosts["n3"].agent.fencer.braked
            assert lab.where("c") == "n3"

    run(story())


def test_a_pin_is_kept_and_a_burst_spreads(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await lab.want("pinned", placement=Placement(node="n2"))
            names = [f"vm{i}" for i in range(12)]
            for name in names:
                await lab.want(name)
            await lab.until("all run", lambda: all(lab.where(n) for n in [*names, "pinned"]))
            assert lab.where("pinned") == "n2"
            counts = sorted(len(h.running()) for h in lab.hosts.values())
            assert counts[-1] - counts[0] <= 1, counts

    run(story())


def test_a_broken_record_leaves_the_rest_alone(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("broken")
            await lab.until("running", lambda: lab.where("broken"))
            await lab.put(KEYS.vm_spec(spec.id), b'{"v": 99}')
            await lab.want("fine")
            await lab.until("the other runs", lambda: lab.where("fine"))
            await asyncio.sleep(60)
            assert lab.where("broken"), "an unreadable spec must not kill its VM"

    run(story())
