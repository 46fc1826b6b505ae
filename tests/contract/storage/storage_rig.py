"""A real Ceph for the session, a folder for each test, and a real QEMU as the writer of a disk."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from metastack.lab.dev.ceph import MiniCeph, new_address
from metastack.ports import DiskSource, Storage
from metastack.settings import StorageSettings
from metastack.storage.choose import build

MIB = 1 << 20
DEADLINE_S = 60.0


def free_address() -> str:
    while True:
        address = new_address()
        try:
            for port in (3300, 6789):
                with socket.socket() as probe:
                    probe.bind((address, port))
        except OSError:
            continue
        return address


@pytest.fixture(scope="session")
def ceph() -> Iterator[MiniCeph]:
    folder = Path(tempfile.mkdtemp(prefix="ms-ceph-", dir="/tmp"))
    cluster = MiniCeph(folder, address=free_address(), v2_port=3300, v1_port=6789)

    async def up() -> None:
        await cluster.create()
        await cluster.create_pool("vms")
        await cluster.create_management_user("cli")
        await cluster.create_node_user("n1", "127.0.0.1")

    try:
        asyncio.run(up())
        yield cluster
    finally:
        asyncio.run(cluster.destroy())
    assert not folder.exists()


@pytest.fixture(params=["file", pytest.param("ceph", marks=pytest.mark.ceph)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> StorageSettings:
    if request.param == "ceph":
        cluster: MiniCeph = request.getfixturevalue("ceph")
        return cluster.settings("cli")
    (tmp_path / "shared").mkdir()
    return StorageSettings(kind="file", directory=str(tmp_path / "shared"))


@pytest.fixture
async def storage(settings: StorageSettings) -> AsyncIterator[Storage]:
    adapter = build(settings)
    await adapter.open()
    yield adapter
    await adapter.close()


@pytest.fixture
def spool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where imports unpack: must be empty afterwards."""
    folder = tmp_path / "spool"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def new_uuid() -> str:
    return str(uuid.uuid4())


def run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"
    return done.stdout


def raw_image(path: Path, size_bytes: int = 8 * MIB, data: bytes = b"boot" * 1024) -> bytes:
    """A sparse raw image with data at its start, at an odd place and in its last sector."""
    with path.open("wb") as file:
        file.truncate(size_bytes)
        file.write(data)
        file.seek(5 * MIB + 512)
        file.write(b"middle")
        file.seek(size_bytes - 512)
        file.write(b"last")
    return path.read_bytes()


def qcow2_image(path: Path, raw: Path, *options: str) -> None:
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, str(raw), str(path))


def qemu_name(source: DiskSource, settings: StorageSettings) -> tuple[str, str]:
    """(format, file name) as qemu-img takes them."""
    if source.kind == "file":
        return "qcow2", source.path
    monitors = ";".join(m.replace(":", "\\:") for m in source.monitors)
    return (
        "raw",
        f"rbd:{source.path}:id={source.user}:mon_host={monitors}:keyring={settings.keyring}:conf=/dev/null",
    )


def content(source: DiskSource, settings: StorageSettings, target: Path) -> bytes:
    """What a guest would read from the disk."""
    fmt, name = qemu_name(source, settings)
    run("qemu-img", "convert", "-f", fmt, "-O", "raw", name, str(target))
    return target.read_bytes()


@asynccontextmanager
async def writer(
    source: DiskSource, settings: StorageSettings, *prefix: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """A real QEMU block layer that has written to the disk and keeps it open."""
    fmt, name = qemu_name(source, settings)
    process = await asyncio.create_subprocess_exec(
        *prefix,
        *("qemu-io", "-f", fmt, name),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdin
    assert process.stdout
    try:
        process.stdin.write(b"write -P 9 1M 4k\n")
        await process.stdin.drain()
        seen = b""
        async with asyncio.timeout(DEADLINE_S):
            while b"wrote 4096" not in seen:
                more = await process.stdout.read(4096)
                assert more, f"qemu-io ended: {seen.decode()}"
                seen += more
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A full disk is easy to make on a tmpfs of 16 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = Path(tempfile.mkdtemp(prefix="ms-small-", dir="/tmp"))
    run("mount", "-t", "tmpfs", "-o", "size=16m", "metastack-test", str(folder))
    try:
        yield folder
    finally:
        run("umount", str(folder))
        shutil.rmtree(folder)
