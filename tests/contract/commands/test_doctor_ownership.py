"""The doctor on disks and images: strays, disks in the trash, disks that are missing, disks of others."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

from commands_rig import HELLO, Rig, request

from metastack.commands.doctor import examine
from metastack.commands.doctor.facts import Severity, ask_storage, collect
from metastack.commands.vm import change as vms
from metastack.commands.vm.change import NewVm
from metastack.core.model import Trashed, VmSpec, Volume
from metastack.storage.twin import MemoryPool, MemoryStorage

NOW = datetime(2026, 1, 1, tzinfo=UTC)


async def _vm(rig: Rig, vm: str = "hello") -> VmSpec:
    image = await rig.image("tiny", uuid="11111111-0000-4000-8000-000000000000")
    spec = (await vms.create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))).spec
    volume = Volume(
        uuid=spec.volume_uuid, project="default", vm=vm, vm_uuid=spec.uuid, size_bytes=1,
        image_uuid=image.uuid, made=True,
    )  # fmt: skip
    await rig.put(rig.keys.volume("default", spec.volume_uuid), volume)
    return spec


async def _told(rig: Rig, pool: MemoryPool) -> list[tuple[Severity, str, str]]:
    facts = await collect(rig.cluster, "1", NOW)
    await ask_storage(facts, MemoryStorage(pool), "metastack")
    return [(f.severity, f.object, f.meaning) for f in examine(facts) if f.check == "ownership"]


async def test_only_objects_without_a_record_are_reported(rig: Rig) -> None:
    spec, pool = await _vm(rig), MemoryPool(images={"golden": 1, "11111111-0000-4000-8000-000000000000": 1})
    pool.new_disk(spec.volume_uuid, 1, "golden")
    ((severity, object, meaning),) = await _told(rig, pool)
    assert (severity, object) == (Severity.INFO, "storage")
    assert "image-golden (it bears no mark)" in meaning and spec.volume_uuid not in meaning


async def test_doctor_tells_missing_trashed_and_owned_disks_apart(rig: Rig) -> None:
    spec, pool = await _vm(rig), MemoryPool()
    ((severity, object, meaning),) = await _told(rig, pool)
    assert (severity, object) == (Severity.ERROR, "vm default/hello") and "is missing" in meaning
    info = pool.new_disk(spec.volume_uuid, 1, "x")
    pool.trash[spec.volume_uuid] = (pool.disks.pop(spec.volume_uuid), asyncio.get_running_loop().time())
    ((severity, _, meaning),) = await _told(rig, pool)
    assert severity is Severity.ERROR and "by hand" in meaning
    record = Trashed(
        uuid=spec.volume_uuid, project="default", vm="hello", vm_uuid=spec.uuid, image_uuid="i", size_bytes=1,
        ident=info.ident, at="then", by="n1",
    )  # fmt: skip
    await rig.put(rig.keys.trash(spec.volume_uuid), record)
    ((severity, _, meaning),) = await _told(rig, pool)
    assert severity is Severity.INFO and "starting the VM restores it" in meaning


async def test_a_disk_that_belongs_to_another(rig: Rig) -> None:
    spec, pool = await _vm(rig, "other"), MemoryPool()
    pool.new_disk(spec.volume_uuid, 1, "x")
    ((severity, _, meaning),) = await _told(rig, pool)
    assert severity is Severity.WARNING and "belongs to default/other" in meaning
