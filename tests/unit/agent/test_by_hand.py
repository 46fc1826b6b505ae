"""Guests that somebody destroyed, saved, undefined or moved to another disk by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
from agent_rig import KEYS, Lab, lab_of
from msgspec.structs import replace

from metastack.agent.reconcile import drift
from metastack.core.domains import Live
from metastack.core.model import Event, Nic, Phase, Power, VmSpec, VmStatus
from metastack.core.state.codec import decode, encode
from metastack.core.state.keys import Kind
from metastack.ports import Refused


def _status(lab: Lab, spec: VmSpec) -> VmStatus | None:
    raw = lab.entry(KEYS.vm_status(spec.id))
    return decode(VmStatus, raw) if raw else None


async def _running(lab: Lab) -> VmSpec:
    spec = await lab.want("hello")
    await lab.until("running", lambda: (s := _status(lab, spec)) is not None and s.phase is Phase.RUNNING)
    return spec


async def _until(lab: Lab, spec: VmSpec, says: str, phase: Phase | None = None) -> VmStatus:
    def so() -> bool:
        status = _status(lab, spec)
        return status is not None and says in status.message and phase in (None, status.phase)

    await lab.until(says, so, 20)
    status = _status(lab, spec)
    assert status is not None
    return status


async def test_a_destroyed_guest_is_restarted_and_reported(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        spec = await _running(lab)
        lab.hosts["n1"].hypervisor.destroy(spec.uuid)
        await _until(lab, spec, "was destroyed by hand on n1 (virsh destroy); started again", Phase.RUNNING)
        listed = await lab.hosts["n1"].agent.node.store.list(KEYS.prefix(Kind.EVENT))
        events = [decode(Event, entry.value) for entry in listed.entries]
        assert [e.message for e in events if e.what == "vm.ended"] == [
            "was destroyed by hand on n1 (virsh destroy)"
        ]


async def test_a_saved_guest_waits_for_a_person(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        spec = await _running(lab)
        host = lab.hosts["n1"].hypervisor
        host.save(spec.uuid)
        await _until(
            lab, spec, "its memory was saved by hand (virsh managedsave): on n1, virsh start", Phase.FAILED
        )
        await lab.put(KEYS.vm_spec(spec.id), encode(replace(spec, run=spec.run + 1)))
        await lab.until("anew", lambda: (s := _status(lab, spec)) is not None and s.run == spec.run + 1, 20)


async def test_undefined_while_it_runs_and_switched_off(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        spec = await _running(lab)
        host = lab.hosts["n1"].hypervisor
        host.undefine(spec.uuid)
        await lab.until("defined again", lambda: not host.known()[0].transient, 20)
        host.guest_powers_off(spec.uuid)
        await lab.until("stays off", lambda: lab.entry(KEYS.halt(spec.id)) is not None, 20)
        await lab.until("released", lambda: lab.entry(KEYS.claim(spec.id)) is None, 20)


async def test_a_guest_that_writes_elsewhere_is_not_ended(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        spec = await _running(lab)
        host = lab.hosts["n1"].hypervisor
        host.change(spec.uuid, disk="/overlay", cpus=7)
        await lab.put(KEYS.vm_spec(spec.id), encode(replace(spec, run=spec.run + 1)))
        status = await _until(lab, spec, "not stopped, because it wrote to /overlay", Phase.RUNNING)
        assert status.elsewhere == "/overlay"
        assert [word.partition(" instead")[0].partition(",")[0] for word in status.drift] == [
            "writes to /overlay",
            "has 7 vCPUs",
        ]
        host.crash(spec.uuid)
        await _until(lab, spec, "not stopped, because it wrote to /overlay", Phase.FAILED)
        assert [domain.run for domain in host.known()] == [spec.run]
        await lab.put(KEYS.vm_spec(spec.id), encode(replace(spec, run=spec.run + 1, force=True)))
        await lab.until("anew", lambda: (s := _status(lab, spec)) is not None and s.run == spec.run + 1, 20)
        status = _status(lab, spec)
        assert status is not None and (status.drift, status.elsewhere) == ((), "")


async def test_when_what_it_wrote_is_merged_it_follows(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        spec = await _running(lab)
        host = lab.hosts["n1"].hypervisor
        host.change(spec.uuid, disk="/overlay")
        await lab.put(KEYS.vm_spec(spec.id), encode(replace(spec, power=Power.OFF)))
        await _until(lab, spec, "not stopped")
        host._changed.clear()
        await lab.until("off", lambda: lab.entry(KEYS.claim(spec.id)) is None, 20)


def test_drift_in_words() -> None:
    spec = VmSpec(
        project="default", name="a", uuid="u", image="i", image_uuid="i", volume_uuid="v", cpus=2,
        memory_mib=512, disk_bytes=1 << 20, nics=(Nic(mac="52:54:00:00:00:01", bridge="br0"),),
    )  # fmt: skip
    as_it_should = Live(disk="vms/vm-v", nics=(("52:54:00:00:00:01", "br0"),), cpus=2, memory_mib=512)
    assert drift.drift_of(as_it_should, spec, "vms/vm-v") == ((), "")
    other = Live(disk="/o", others=("vdb (/x)",), nics=(("52:54:00:00:00:01", "br9"),), cpus=4, memory_mib=256)
    assert drift.drift_of(other, spec, "vms/vm-v") == (
        (
            "writes to /o instead of its disk vms/vm-v",
            "has further disks: vdb (/x)",
            "has the NICs 52:54:00:00:00:01 on br9, not 52:54:00:00:00:01 on br0",
            "has 4 vCPUs, not 2",
            "has 256 MiB of memory, not 512",
        ),
        "/o",
    )


async def test_a_step_refused_three_times_is_told_until_it_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuses(uuid: str) -> None:
        raise Refused("pause: no persistent domain")

    async with lab_of(tmp_path, nodes=1) as lab:
        spec = await _running(lab)
        status = _status(lab, spec)
        assert status is not None
        epoch = lab.hosts["n1"].agent.node.world.claim(spec.id)
        assert epoch is not None
        host = lab.hosts["n1"].hypervisor
        with monkeypatch.context() as patched:
            patched.setattr(host, "pause", refuses)
            await lab.put(KEYS.vm_spec(spec.id), encode(replace(spec, paused_epoch=epoch.ok.epoch)))
            await _until(lab, spec, "a step is refused again and again: pause: no persistent domain")
        await _until(lab, spec, "", Phase.PAUSED)
        status = _status(lab, spec)
        assert status is not None
        await lab.until("taken back", lambda: "refused" not in (_status(lab, spec) or status).message, 20)
