"""``vm rebuild``: a lost disk is made once more only when a person says so, and only when it is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import pytest
from commands_rig import HELLO, Rig, request
from msgspec.structs import replace

from metastack.commands.problem import Code, Problem
from metastack.commands.vm import change as vms
from metastack.commands.vm import history, rebuild
from metastack.commands.vm.change import NewVm
from metastack.commands.vm.views import VmView
from metastack.commands.vm.wait import Goal, wait_vm
from metastack.core.model import Image, ImageState, Phase, Record, Trashed, VmSpec, VmStatus, Volume
from metastack.core.state.codec import encode
from metastack.core.transaction import Put, Transaction
from metastack.storage.twin import MemoryPool, MemoryStorage

IMAGE = "11111111-0000-4000-8000-000000000000"


async def _put(rig: Rig, key: str, record: Record) -> None:
    await rig.store.commit(Transaction(name="test", guards=(), effects=(Put(key, encode(record)),)))


async def _vm(rig: Rig) -> VmSpec:
    """A VM whose disk was made, and is not there."""
    image = Image(name="tiny", uuid=IMAGE, state=ImageState.READY, size_bytes=36 << 20)
    await _put(rig, rig.keys.image("tiny"), image)
    spec = (await vms.create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))).spec
    volume = Volume(
        uuid=spec.volume_uuid, project="default", vm="hello", vm_uuid=spec.uuid, size_bytes=1,
        image_uuid=IMAGE, made=True,
    )  # fmt: skip
    await _put(rig, rig.keys.volume("default", spec.volume_uuid), volume)
    return spec


async def _made(rig: Rig, spec: VmSpec) -> bool | None:
    found = await rig.cluster.read(Volume, rig.keys.volume("default", spec.volume_uuid))
    assert found is not None
    return found.ok.made


async def _refused(rig: Rig, spec: VmSpec, work: Awaitable[object], text: str) -> Problem:
    with pytest.raises(Problem, match=text) as caught:
        await work
    assert await _made(rig, spec) is True
    return caught.value


async def test_the_next_start_makes_it_and_the_history_tells(rig: Rig) -> None:
    spec, storage = await _vm(rig), MemoryStorage(MemoryPool())
    changed = await rebuild.rebuild_vm(rig.cluster, storage, request("its pool was lost"), HELLO)
    assert changed.changed and await _made(rig, spec) is False
    assert not (await rebuild.rebuild_vm(rig.cluster, storage, request("again"), HELLO)).changed
    versions = await history.vm_history(rig.cluster, HELLO)
    assert [version.reason for version in versions].count("its pool was lost") == 1
    assert versions[-1].changes == [
        f"disk {spec.volume_uuid} is recreated from image tiny; its old content is lost"
    ]


async def test_wait_ignores_the_previous_message(rig: Rig) -> None:
    """``vm rebuild`` and then ``vm wait``: the node says "failed" until it looks at the disk again."""
    spec, storage = await _vm(rig), MemoryStorage(MemoryPool())
    session = await rig.node("n1")
    await rig.claim("n1", session, phase=None)
    volume = Volume(
        uuid=spec.volume_uuid, project="default", vm="hello", vm_uuid=spec.uuid, size_bytes=1,
        image_uuid=IMAGE, made=True,
    )  # fmt: skip
    key = rig.keys.volume("default", spec.volume_uuid)
    await _put(rig, key, volume)
    await rig.status("n1", session, Phase.FAILED, message="it lies in the trash")
    with pytest.raises(Problem, match="it lies in the trash"):
        await wait_vm(rig.cluster, HELLO, Goal.RUNNING, 5)
    await rebuild.rebuild_vm(rig.cluster, storage, request("lost"), HELLO)
    told: list[str | None] = []
    waits = asyncio.Event()

    def progress(view: VmView) -> None:
        told.append(view.message)
        waits.set()

    task = asyncio.create_task(wait_vm(rig.cluster, HELLO, Goal.RUNNING, 5, progress=progress))
    async with asyncio.timeout(5):
        await waits.wait()
    await _put(rig, key, replace(volume, made=True, cluster_id="c"))
    await rig.status("n1", session, Phase.RUNNING)
    view = await task
    assert view is not None and view.phase == "running"
    assert told[0] == "creating its disk from its image"
    await rig.status("n1", session, Phase.FAILED, message="its image is bad")
    with pytest.raises(Problem, match="its image is bad"):
        await wait_vm(rig.cluster, HELLO, Goal.RUNNING, 5)


async def test_an_existing_disk_is_never_made_again(rig: Rig) -> None:
    spec, pool = await _vm(rig), MemoryPool()
    pool.new_disk(spec.volume_uuid, 512, IMAGE)
    call = rebuild.rebuild_vm(rig.cluster, MemoryStorage(pool), request("lost"), HELLO)
    assert (await _refused(rig, spec, call, "no rebuild is needed")).code is Code.CONFLICT


async def test_a_disk_in_the_trash_is_taken_out_instead(rig: Rig) -> None:
    spec, pool = await _vm(rig), MemoryPool()
    info = pool.new_disk(spec.volume_uuid, 512, IMAGE)
    pool.trash[spec.volume_uuid] = (pool.disks.pop(spec.volume_uuid), asyncio.get_running_loop().time())
    call = rebuild.rebuild_vm(rig.cluster, MemoryStorage(pool), request("lost"), HELLO)
    by_hand = await _refused(rig, spec, call, "it lies in the trash")
    assert "restore it, or remove it" in by_hand.hint
    record = Trashed(
        uuid=spec.volume_uuid, project="default", vm="hello", vm_uuid=spec.uuid, image_uuid=IMAGE, size_bytes=1,
        ident=info.ident,
    )  # fmt: skip
    await _put(rig, rig.keys.trash(spec.volume_uuid), record)
    call = rebuild.rebuild_vm(rig.cluster, MemoryStorage(pool), request("lost"), HELLO)
    assert "vm start" in (await _refused(rig, spec, call, "a start restores it")).hint


async def test_rebuild_is_refused_while_running_or_without_image(rig: Rig) -> None:
    spec, storage = await _vm(rig), MemoryStorage(MemoryPool())
    status = VmStatus(uuid=spec.uuid, phase=Phase.RUNNING, node="n1", session=1, epoch=1)
    await _put(rig, rig.keys.vm_status(HELLO), status)
    call = rebuild.rebuild_vm(rig.cluster, storage, request("lost"), HELLO)
    assert "vm stop" in (await _refused(rig, spec, call, "is running on n1")).hint
    await _put(
        rig,
        rig.keys.vm_status(HELLO),
        VmStatus(uuid=spec.uuid, phase=Phase.FAILED, node="n1", session=1, epoch=1),
    )
    gone = Image(name="tiny", uuid=IMAGE, state=ImageState.DELETING, size_bytes=512)
    await _put(rig, rig.keys.image("tiny"), gone)
    call = rebuild.rebuild_vm(rig.cluster, storage, request("lost"), HELLO)
    await _refused(rig, spec, call, "which no longer exists")


async def test_it_needs_a_reason(rig: Rig) -> None:
    spec = await _vm(rig)
    call = rebuild.rebuild_vm(rig.cluster, MemoryStorage(MemoryPool()), request(), HELLO)
    assert "--reason" in (await _refused(rig, spec, call, "needs a reason")).hint
