"""Nothing is removed that is not ours, nothing is made that may be lost: the agents' own code on twins.

Each story was seen to lose data on real parts: what administrators do by hand, and wrong clocks.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import msgspec
from agent_rig import CLUSTER, KEYS, STORAGE, Lab, lab_of, vm, vm_spec

from metastack.agent.agent import SWEEP_EVERY_S
from metastack.core.model import ClusterConfig, Import, Phase, Power, Trashed, VmStatus, Volume
from metastack.core.state.codec import decode, encode
from metastack.lab.sim.engine.loop import run
from metastack.ports.ownership import Found

OTHER = "22222222-0000-4000-8000-000000000000"


def _status(lab: Lab, name: str) -> VmStatus | None:
    raw = lab.entry(KEYS.vm_status(vm(name)))
    return decode(VmStatus, raw) if raw else None


def _volume(lab: Lab, uuid: str) -> Volume | None:
    raw = lab.entry(KEYS.volume("default", uuid))
    return decode(Volume, raw) if raw else None


def _trashed(lab: Lab, uuid: str) -> Trashed | None:
    raw = lab.entry(KEYS.trash(uuid))
    return decode(Trashed, raw) if raw else None


async def _off(lab: Lab, name: str) -> None:
    await lab.want(name, power=Power.OFF)
    await lab.until("off", lambda: not lab.entry(KEYS.claim(vm(name))))


def _warnings(lab: Lab) -> str:
    agents = (host.agent for host in lab.hosts.values())
    return " ".join(
        text for agent in agents if agent is not None for text in agent._reporter.describe().warnings
    )


def test_a_made_disk_has_a_mark_and_a_record(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("v")
            await lab.until("running", lambda: lab.where("v"))
            volume, info = _volume(lab, spec.volume_uuid), lab.pool.disks[spec.volume_uuid]
            assert volume is not None and volume.made is True
            assert info.mark == Found(cluster=CLUSTER, kind="disk", record=spec.volume_uuid, ident=info.ident)

    run(story())


def test_images_without_an_import_record_are_left_alone(tmp_path: Path) -> None:
    """``image-golden`` and ``import-nightly`` were made by hand; another's image was ready in the same pool."""

    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            lab.pool.images |= {"golden": 512, "nightly": 512, OTHER: 512}
            lab.pool.image_marks[OTHER] = Found(cluster="another", kind="image", record=OTHER, ident=OTHER)
            await asyncio.sleep(4 * SWEEP_EVERY_S)
            assert {"golden", "nightly", OTHER} <= set(lab.pool.images)

    run(story())


def test_marked_remains_of_a_dead_import_are_removed(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            bare = "33333333-0000-4000-8000-000000000000"
            for uuid in (OTHER, bare):
                lab.pool.images[uuid] = 512
                await lab.put(KEYS.import_of(uuid), encode(Import(uuid=uuid, name="x", cluster_id=CLUSTER)))
            lab.pool.image_marks[OTHER] = Found(cluster=CLUSTER, kind="image", record=OTHER, ident=OTHER)
            await lab.until("gone", lambda: OTHER not in lab.pool.images, 3 * SWEEP_EVERY_S)
            await lab.until("record gone", lambda: not lab.entry(KEYS.import_of(OTHER)))
            assert bare in lab.pool.images
            assert f"cannot remove half an image {bare}: image-{bare} bears no mark" in _warnings(lab)

    run(story())


def test_a_disk_that_an_administrator_trashed_is_never_purged(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("v")
            await lab.until("running", lambda: lab.where("v"))
            await _off(lab, "v")
            lab.pool.trash_by_hand(spec.volume_uuid)
            await asyncio.sleep(4 * SWEEP_EVERY_S)
            assert spec.volume_uuid in lab.pool.trash
            await lab.want("v", run=2)
            await lab.until("told", lambda: (s := _status(lab, "v")) is not None and s.phase is Phase.FAILED)
            status = _status(lab, "v")
            assert status is not None and status.message.startswith(
                f"its disk vm-{spec.volume_uuid} is missing"
            )
            assert "trash" in status.message
            lab.pool.disks[spec.volume_uuid] = lab.pool.trash.pop(spec.volume_uuid)[0]
            await lab.until("it runs again", lambda: lab.where("v"))

    run(story())


def test_a_renamed_disk_is_missing_and_not_made_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("v")
            await lab.until("running", lambda: lab.where("v"))
            await _off(lab, "v")
            moved = lab.pool.disks.pop(spec.volume_uuid)
            await lab.want("v", run=2)
            await lab.until("told", lambda: (s := _status(lab, "v")) is not None and s.phase is Phase.FAILED)
            status = _status(lab, "v")
            assert status is not None
            assert "metastack vm rebuild default/v --from-image --yes --reason WHY" in status.message
            await asyncio.sleep(120)
            assert not lab.pool.disks and not lab.where("v")
            lab.pool.disks[spec.volume_uuid] = moved
            await lab.until("it runs again", lambda: lab.where("v"))

    run(story())


def test_a_disk_of_an_older_record_is_not_remade(tmp_path: Path) -> None:
    """Its record does not say whether it was made: the VM was claimed, so it counts as made."""

    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = vm_spec("v")
            old = {
                "v": 2, "uuid": spec.volume_uuid, "project": "default", "vm": "v", "vm_uuid": spec.uuid,
                "size_bytes": 1, "image_uuid": spec.image_uuid,
            }  # fmt: skip
            await lab.put(KEYS.volume("default", spec.volume_uuid), msgspec.json.encode(old))
            await lab.put(KEYS.vm_spec(spec.id), encode(spec))
            await lab.until("told", lambda: (s := _status(lab, "v")) is not None and s.phase is Phase.FAILED)
            assert not lab.pool.disks
            lab.pool.new_disk(spec.volume_uuid, 1 << 20, spec.image_uuid)
            await lab.until("running", lambda: lab.where("v"))
            mark = lab.pool.disks[spec.volume_uuid].mark
            assert mark is not None and mark.cluster == CLUSTER  # marked at first touch

    run(story())


def test_a_spec_that_was_renamed_by_hand_keeps_its_disk(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("v")
            await lab.until("running", lambda: lab.where("v"))
            ident = lab.pool.disks[spec.volume_uuid].ident
            renamed = msgspec.structs.replace(spec, name="w")
            await lab.put(KEYS.vm_spec(renamed.id), encode(renamed))
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.until("it runs under its new name", lambda: lab.where("w"), 180)
            assert lab.pool.disks[spec.volume_uuid].ident == ident
            assert not lab.pool.trash and not lab.where("v")

    run(story())


def test_a_spec_that_returns_gets_its_disk_back(tmp_path: Path) -> None:
    """Deleted with etcdctl, and written under another name later: meanwhile its disk went to the trash."""

    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("v")
            await lab.until("running", lambda: lab.where("v"))
            ident = lab.pool.disks[spec.volume_uuid].ident
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.until("in the trash", lambda: not _volume(lab, spec.volume_uuid))
            record = _trashed(lab, spec.volume_uuid)
            assert record is not None and record.ident == ident and record.retention_s == 86_400
            renamed = msgspec.structs.replace(spec, name="w")
            await lab.put(KEYS.vm_spec(renamed.id), encode(renamed))
            await lab.until("it runs", lambda: lab.where("w"))
            assert lab.pool.disks[spec.volume_uuid].ident == ident
            assert not lab.pool.trash and not _trashed(lab, spec.volume_uuid)

    run(story())


async def _deleted(lab: Lab, name: str, retention_s: int) -> str:
    await lab.put(KEYS.cluster(), encode(ClusterConfig(trash_retention_s=retention_s)))
    spec = await lab.want(name)
    await lab.until("running", lambda: lab.where(name))
    await lab.delete(KEYS.vm_spec(spec.id))
    await lab.until("in the trash", lambda: not _volume(lab, spec.volume_uuid))
    return spec.volume_uuid


def test_what_outlived_its_retention_is_purged_by_one_node_alone(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            uuid = await _deleted(lab, "v", 200)
            await asyncio.sleep(200)
            assert uuid in lab.pool.trash
            await lab.until("purged", lambda: not lab.pool.trash, 4 * SWEEP_EVERY_S)
            await lab.until("record gone", lambda: not _trashed(lab, uuid))

    run(story())


def test_a_clock_two_days_ahead_purges_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            uuid = await _deleted(lab, "v", 86_400)
            lab.pool.trash[uuid] = (lab.pool.trash[uuid][0], 0.0)  # the storage goes by the same wrong clock
            for host in lab.hosts.values():
                assert host.agent is not None
                wall = host.agent.node.clock._wall
                host.agent.node.clock._wall = lambda wall=wall: wall() + 2 * 86_400
            await asyncio.sleep(600)
            assert uuid in lab.pool.trash

    run(story())


def test_a_disk_trashed_by_a_slow_clock_is_kept(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            uuid = await _deleted(lab, "v", 86_400)
            record = _trashed(lab, uuid)
            assert record is not None
            late = msgspec.structs.replace(record, until_ms=record.until_ms - 2 * 86_400_000)
            await lab.put(KEYS.trash(uuid), encode(late))
            lab.pool.trash[uuid] = (lab.pool.trash[uuid][0], 0.0)
            await asyncio.sleep(600)
            assert uuid in lab.pool.trash

    run(story())


def test_a_failed_removal_is_reported_and_blocks_no_other(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            uuids = [await _deleted(lab, name, 1) for name in ("a", "b", "c")]
            first = min(uuids)
            lab.pool.stuck[first] = "it has the snapshot by-hand"
            await lab.until("the others are gone", lambda: set(lab.pool.trash) == {first}, 5 * SWEEP_EVERY_S)
            told = f"cannot remove deleted disk {first}: vm-{first}: it has the snapshot by-hand"
            await lab.until("told", lambda: told in _warnings(lab), 3 * SWEEP_EVERY_S)
            del lab.pool.stuck[first]
            await lab.until("gone", lambda: not lab.pool.trash, 3 * SWEEP_EVERY_S)
            assert told not in _warnings(lab)

    run(story())


def test_a_cluster_without_an_id_removes_what_its_records_name(tmp_path: Path) -> None:
    """And what it made before it got its id is marked on the way into the trash."""

    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await lab.delete(KEYS.storage())
            uuid = await _deleted(lab, "v", 1)
            await lab.until("purged", lambda: not lab.pool.trash, 4 * SWEEP_EVERY_S)
            assert uuid in lab.pool.purged
            spec = await lab.want("w")
            await lab.until("running", lambda: lab.where("w"))
            assert lab.pool.disks[spec.volume_uuid].mark is None
            await lab.put(KEYS.storage(), encode(STORAGE))
            await lab.delete(KEYS.vm_spec(spec.id))
            await lab.until("in the trash", lambda: spec.volume_uuid in lab.pool.trash)
            mark = lab.pool.trash[spec.volume_uuid][0].mark
            assert mark is not None and mark.cluster == CLUSTER
            await lab.until("purged", lambda: not lab.pool.trash, 4 * SWEEP_EVERY_S)

    run(story())


def test_another_clusters_disk_is_left_alone(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            spec = await lab.want("v")
            await lab.until("running", lambda: lab.where("v"))
            await _off(lab, "v")
            info = lab.pool.disks[spec.volume_uuid]
            mark = Found(cluster="another", kind="disk", record=spec.volume_uuid, ident=info.ident)
            lab.pool.disks[spec.volume_uuid] = msgspec.structs.replace(info, mark=mark)
            await lab.delete(KEYS.vm_spec(spec.id))
            await asyncio.sleep(3 * SWEEP_EVERY_S)
            assert spec.volume_uuid in lab.pool.disks
            assert "of cluster another" in _warnings(lab)

    run(story())
