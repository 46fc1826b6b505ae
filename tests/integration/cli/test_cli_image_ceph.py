"""``image import`` into a real Ceph: what it says when the context is wrong, and when the file is."""

from __future__ import annotations

import asyncio
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_program import Answer, Program
from commands_rig import Rig

from metastack.core.model import Fence, FenceReceipt
from metastack.lab.dev.ceph import MiniCeph, new_address
from metastack.settings import StorageSettings
from metastack.storage.choose import build

pytestmark = [pytest.mark.etcd, pytest.mark.ceph]
MIB = 1 << 20


@pytest.fixture(scope="module")
def ceph() -> Iterator[MiniCeph]:
    folder = Path(tempfile.mkdtemp(prefix="ms-cliceph-", dir="/tmp"))
    cluster = MiniCeph(folder, address=new_address(), v2_port=3300, v1_port=6789)

    async def up() -> None:
        await cluster.create()
        await cluster.create_pool("vms")
        await cluster.create_management_user("cli")

    try:
        asyncio.run(up())
        yield cluster
    finally:
        asyncio.run(cluster.destroy())


@pytest.fixture
def settings(ceph: MiniCeph) -> StorageSettings:
    return ceph.settings("cli", timeout_s=2)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.raw"
    path.write_bytes(bytes(range(256)) * (2 * MIB // 256))
    return path


@pytest.fixture
def whole(source: Path) -> bytes:
    """A sound qcow2 file."""
    made = source.with_suffix(".qcow2")
    subprocess.run(["qemu-img", "convert", "-O", "qcow2", str(source), str(made)], check=True, timeout=60)
    return made.read_bytes()


def on(program: Program, rig: Rig, settings: StorageSettings, **other: Any) -> Program:
    """The program with a context whose storage is this Ceph, or nearly."""
    values = {
        "kind": "ceph",
        "pool": settings.pool,
        "monitors": list(settings.monitors),
        "user": settings.user,
        "keyring": settings.keyring,
        "timeout_s": settings.timeout_s,
    } | other
    config = Path(program.env["METASTACK_CONFIG"])
    text = config.read_text().split("[contexts.lab.storage]")[0] + "[contexts.lab.storage]\n"
    config.write_text(text + "".join(f"{key} = {value!r}\n" for key, value in values.items()))
    return program


async def nothing_is_left(program: Program, settings: StorageSettings) -> None:
    assert (await program("image", "list", "-o", "json")).json() == []
    storage = build(settings)
    await storage.open()
    try:
        assert await storage.images() == []
    finally:
        await storage.close()


def refused(answer: Answer, status: int, *says: str) -> None:
    assert answer.status == status, answer
    error = answer.error()
    assert error["object"] == "image tiny"
    assert error["hint"], error
    told = f"{error['message']} {error['hint']}"
    assert [text for text in says if text not in told] == [], told


async def test_a_wrong_key(
    program: Program, rig: Rig, settings: StorageSettings, source: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "keyring"
    wrong.write_text("[client.cli]\n\tkey = AQCgDwNrBnNIDBAASiir6V7kf4wmPmSUufRkTg==\n")
    told = on(program, rig, settings, keyring=str(wrong))
    answer = await told("image", "import", "tiny", str(source), "-o", "json")
    refused(answer, 6, "client.cli", settings.monitors[0], "key", "in the context")
    absent = on(program, rig, settings, keyring="/nonexistent/keyring")
    answer = await absent("image", "import", "tiny", str(source), "-o", "json")
    refused(answer, 6, "client.cli", "/nonexistent/keyring")
    await nothing_is_left(program, settings)


async def test_a_user_or_keyring_that_was_named_and_is_wrong(
    program: Program, rig: Rig, ceph: MiniCeph, settings: StorageSettings, tmp_path: Path
) -> None:
    """``node unfence`` takes --user and --keyring: those are to blame then, not the context."""
    await rig.node("n1")
    await rig.lose("n1")
    receipt = FenceReceipt(at="t", by="n2", method="ceph-blocklist", addresses=("10.0.0.1",))
    await rig.put(rig.keys.fence("n1"), Fence(through=1 << 30, receipt=receipt))
    told = on(program, rig, settings)
    unfence = ("node", "unfence", "n1", "--yes", "--reason", "sold", "-o", "json")
    admin = str(ceph.keyring("admin"))
    wrong = tmp_path / "wrong.keyring"
    wrong.write_text("[client.admin]\n\tkey = AQCgDwNrBnNIDBAASiir6V7kf4wmPmSUufRkTg==\n")
    for words, says in (
        (("--keyring", admin), f"'{admin}' holds no valid key of client.cli: it is of client.admin"),
        (("--user", "admin"), f"'{settings.keyring}' holds no valid key of client.admin: it is of client.cli"),
        (("--user", "admin", "--keyring", "/nowhere"), "'/nowhere' of cephx user client.admin cannot be read"),
        (
            ("--user", "admin", "--keyring", str(wrong)),
            f"as client.admin with the key in {wrong}: Ceph does not",
        ),
    ):
        answer = await told(*unfence, *words)
        assert answer.status == 6, answer
        error = answer.error()
        assert says in error["message"], error
        assert "--user and --keyring go together" in error["hint"], error
        assert "in the context" not in error["hint"]
    done = await told(*unfence, "--user", "admin", "--keyring", admin)
    assert done.json()["state"] == "unblocked"


async def test_a_monitor_that_is_not_there(
    program: Program, rig: Rig, settings: StorageSettings, source: Path
) -> None:
    away = settings.monitors[0].replace("6789", "6788")
    told = on(program, rig, settings, monitors=[away])
    answer = await told("image", "import", "tiny", str(source), "-o", "json")
    refused(answer, 1, "client.cli", away, "did not answer in time", "in the context")
    await nothing_is_left(program, settings)


async def test_broken_files(
    program: Program, rig: Rig, settings: StorageSettings, whole: bytes, tmp_path: Path
) -> None:
    (tmp_path / "truncated.qcow2").write_bytes(whole[: len(whole) // 2])
    table = int.from_bytes(whole[40:48], "big")  # the L1 table: its first entry points far behind the end
    far = (1 << 63 | 1 << 50).to_bytes(8, "big")
    (tmp_path / "corrupt.qcow2").write_bytes(whole[:table] + far + whole[table + 8 :])
    program = on(program, rig, settings)
    for name, says in (("truncated", "truncated"), ("corrupt", "corrupt")):
        answer = await program("image", "import", "tiny", str(tmp_path / f"{name}.qcow2"), "-o", "json")
        refused(answer, 1, says, "download the file again")
    await nothing_is_left(program, settings)


async def test_a_disk_smaller_than_the_image(
    program: Program, rig: Rig, settings: StorageSettings, source: Path
) -> None:
    program = on(program, rig, settings)
    assert (await program("image", "import", "tiny", str(source), "-o", "json")).json()["size_bytes"] == 2 * MIB
    answer = await program("vm", "create", "x", "--image", "tiny", "--disk", "1MiB", "-o", "json")
    assert answer.status == 2, answer
    assert "--disk 2MiB" in answer.err
    assert (await program("image", "delete", "tiny", "--yes", "-o", "json")).json()["deleted"]
    await nothing_is_left(program, settings)
