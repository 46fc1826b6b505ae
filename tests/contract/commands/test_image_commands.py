"""Images, nodes, projects and settings against both stores; images also against the real file storage."""

from __future__ import annotations

import asyncio
import hashlib
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, cast

import pytest
from commands_rig import HELLO, Racing, Rig, request

from metastack.commands.cluster import settings
from metastack.commands.cluster.projects import create_project, list_projects
from metastack.commands.image import import_ as images
from metastack.commands.image.delete import delete_image
from metastack.commands.node import change as nodes
from metastack.commands.problem import Code, Problem
from metastack.commands.request import Cluster
from metastack.commands.vm import change as vms
from metastack.commands.vm.change import NewVm
from metastack.core.model import ClusterConfig, Image, ImageState, NodeSpec
from metastack.core.state.codec import decode
from metastack.core.state.record_versions import LEVEL
from metastack.core.transaction import Delete, Put
from metastack.ports import DiskFormat, Storage
from metastack.settings import StorageSettings
from metastack.storage.choose import build


@pytest.fixture
async def storage(tmp_path: Path) -> AsyncIterator[Storage]:
    (tmp_path / "pool").mkdir()
    found = build(StorageSettings(kind="file", directory=str(tmp_path / "pool")))
    await found.open()
    yield found
    await found.close()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.raw"
    path.write_bytes(b"metastack" * 1000 + bytes(512 * 1000))
    with path.open("ab") as out:
        out.truncate(1 << 20)
    return path


@pytest.fixture
def larger(source: Path) -> Path:
    """A qcow2 file whose disk has 4 MiB."""
    with source.open("ab") as out:
        out.truncate(4 << 20)
    made = source.with_suffix(".qcow2")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(source), str(made)], check=True, timeout=60)
    return made


async def problem(awaitable: Any, code: Code, says: str) -> Problem:
    with pytest.raises(Problem) as caught:
        await awaitable
    assert caught.value.code is code, caught.value
    assert says in f"{caught.value} {caught.value.hint}"
    return caught.value


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


async def record(rig: Rig, name: str = "tiny") -> Image | None:
    entry = await rig.store.get(rig.keys.image(name))
    return None if entry is None else decode(Image, entry.value)


async def test_import_then_delete(rig: Rig, storage: Storage, source: Path) -> None:
    seen: list[tuple[int, int]] = []

    def progress(done: int, total: int) -> None:
        seen.append((done, total))

    image = await images.import_image(
        rig.cluster, storage, request("new"), "tiny", str(source), DiskFormat.RAW, progress=progress
    )
    entry = await rig.store.get(rig.keys.image("tiny"))
    assert entry is not None
    assert entry.lease == 0, "the ready record is not leased"
    assert decode(Image, entry.value) == image
    assert (image.state, image.size_bytes) == (ImageState.READY, 1 << 20)
    assert image.sha256 == sha256_of(source)
    assert seen
    assert seen[-1][0] > 0
    assert [event.what for event in await rig.events()] == ["image.import", "image.ready"]
    again = images.import_image(rig.cluster, storage, request(), "tiny", str(source))
    await problem(again, Code.CONFLICT, "exists already")

    await vms.create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    await problem(delete_image(rig.cluster, storage, request(), "tiny"), Code.CONFLICT, "used by default/hello")
    found = await record(rig)
    assert found is not None
    assert found.state is ImageState.READY
    await vms.delete_vm(rig.cluster, request(), HELLO)
    await delete_image(rig.cluster, storage, request(), "tiny")
    assert await record(rig) is None
    await problem(delete_image(rig.cluster, storage, request(), "tiny"), Code.NOT_FOUND, "tiny")


async def test_a_failed_import_leaves_nothing(rig: Rig, storage: Storage, tmp_path: Path) -> None:
    bad = tmp_path / "bad.qcow2"
    bad.write_bytes(b"QFI\xfb" + b"\xff" * 600)
    await problem(
        images.import_image(rig.cluster, storage, request(), "tiny", str(bad)), Code.FAILED, "image tiny"
    )
    assert await record(rig) is None
    assert await storage.images() == []
    await problem(images.import_image(rig.cluster, storage, request(), "T", str(bad)), Code.USAGE, "valid name")


async def test_an_interrupted_import_leaves_nothing(rig: Rig, storage: Storage, tmp_path: Path) -> None:
    big = tmp_path / "big.raw"
    big.write_bytes(b"x" * (32 << 20))
    loop = asyncio.get_running_loop()
    begun = asyncio.Event()

    def progress(done: int, total: int) -> None:
        loop.call_soon_threadsafe(begun.set)

    task = asyncio.ensure_future(
        images.import_image(
            rig.cluster, storage, request(), "tiny", str(big), DiskFormat.RAW, progress=progress
        )
    )
    async with asyncio.timeout(30):
        await begun.wait()
        found = await record(rig)
        assert found is not None
        assert found.state is ImageState.IMPORTING
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await record(rig) is None
    assert await storage.images() == []


async def test_an_import_whose_record_vanished_fails_and_tidies(
    rig: Rig, storage: Storage, source: Path
) -> None:
    """The lease was lost, the agents tidied: the record must not come back as ready."""
    count = 0

    async def rival() -> None:
        nonlocal count
        count += 1
        if count == 2:  # before the commit that makes it ready
            await rig.write(Delete(rig.keys.image("tiny")))

    racing = Cluster(cast(Any, Racing(rig.store, rival, 2)), rig.keys)
    await problem(
        images.import_image(racing, storage, request(), "tiny", str(source)),
        Code.FAILED,
        "and its record with it",
    )
    assert await record(rig) is None
    assert await storage.images() == []


async def test_the_importing_record_is_leased(rig: Rig, storage: Storage, source: Path) -> None:
    leases: list[int] = []

    async def look() -> None:
        entry = await rig.store.get(rig.keys.image("tiny"))
        if entry is not None:
            leases.append(entry.lease)

    racing = Cluster(cast(Any, Racing(rig.store, look, 2)), rig.keys)
    await images.import_image(racing, storage, request(), "tiny", str(source))
    assert len(leases) == 1
    assert leases[0] != 0


async def test_delete_sees_a_user_that_came_between(rig: Rig, storage: Storage, source: Path) -> None:
    await images.import_image(rig.cluster, storage, request(), "tiny", str(source))

    async def rival() -> None:
        await vms.create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))

    racing = Cluster(cast(Any, Racing(rig.store, rival)), rig.keys)
    await problem(delete_image(racing, storage, request(), "tiny"), Code.CONFLICT, "used by default/hello")
    found = await record(rig)
    assert found is not None
    assert found.state is ImageState.READY, "put back"


async def test_an_image_larger_than_the_disk(rig: Rig, storage: Storage, larger: Path) -> None:
    await images.import_image(rig.cluster, storage, request(), "large", str(larger))
    small = NewVm(vm=HELLO, image="large", disk_bytes=2 << 20)
    await problem(vms.create_vm(rig.cluster, request(), small), Code.USAGE, "--disk 4MiB")


# ---------------------------------------------------------------------------------------------------------


async def test_nodes(rig: Rig) -> None:
    await problem(nodes.cordon_node(rig.cluster, request(), "n1"), Code.NOT_FOUND, "node n1")
    await rig.node("n1")
    assert await nodes.cordon_node(rig.cluster, request("disk"), "n1")
    assert not await nodes.cordon_node(rig.cluster, request(), "n1")
    assert await nodes.label_node(rig.cluster, request(), "n1", {"rack": "a"}, set())
    entry = await rig.store.get(rig.keys.node_spec("n1"))
    assert entry is not None
    spec = decode(NodeSpec, entry.value)
    assert (spec.cordoned, spec.labels) == (True, {"rack": "a"})
    assert await nodes.uncordon_node(rig.cluster, request(), "n1")
    assert [event.what for event in await rig.events()] == ["node.cordon", "node.label", "node.uncordon"]


async def test_projects(rig: Rig) -> None:
    assert [name for name, _ in await list_projects(rig.cluster)] == ["default"]
    await create_project(rig.cluster, request(), "web")
    await problem(create_project(rig.cluster, request(), "web"), Code.CONFLICT, "exists")
    await problem(create_project(rig.cluster, request(), "default"), Code.CONFLICT, "exists")
    assert [name for name, _ in await list_projects(rig.cluster)] == ["default", "web"]


async def test_settings(rig: Rig) -> None:
    values = settings.parse_settings(["lease_ttl_s=3", "grace_s=1", "default_network=br0"])
    assert await settings.set_settings(rig.cluster, request("tune"), values)
    assert not await settings.set_settings(rig.cluster, request(), values)
    assert await rig.cluster.config() == ClusterConfig(
        record_version=LEVEL, lease_ttl_s=3, grace_s=1.0, default_network="br0"
    )
    shown = {setting.key: setting for setting in await settings.show_settings(rig.cluster)}
    assert shown["lease_ttl_s"].changed
    assert not shown["syslog"].changed
    await asyncio.gather(
        settings.set_settings(rig.cluster, request(), {"brake_percent": 10}),
        settings.set_settings(rig.cluster, request(), {"stop_timeout_s": 5}),
    )
    config = await rig.cluster.config()
    assert (config.brake_percent, config.stop_timeout_s, config.lease_ttl_s) == (10, 5, 3)
    with pytest.raises(Problem, match="crash_backoff"):
        await settings.set_settings(rig.cluster, request(), {"crash_backoff_s": 500.0})


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("lease_ttl_s=1", "a whole number of seconds from 2 to 60"),
        ("lease_ttl_s=many", "a whole number"),
        ("nope=1", "the settings are"),
        ("v=2", "not a setting"),
        ("lease_ttl_s", "KEY=VALUE"),
        ("syslog=udp://x:1", "tcp://HOST:PORT"),
        ("default_network=a b", "bridge"),
        ("default_pool=", "pool"),
        ("grace_s=nan", "grace_s"),
    ],
)
def test_settings_refused(text: str, says: str) -> None:
    with pytest.raises(Problem) as caught:
        settings.parse_settings([text])
    assert caught.value.code is Code.USAGE
    assert says in f"{caught.value} {caught.value.hint}"


async def test_a_newer_configuration_is_not_overwritten(rig: Rig) -> None:
    await rig.write(Put(rig.keys.cluster(), b'{"v":9}'))
    await problem(settings.set_settings(rig.cluster, request(), {"grace_s": 1.0}), Code.FAILED, "newer")
    await problem(settings.show_settings(rig.cluster), Code.FAILED, "newer")
