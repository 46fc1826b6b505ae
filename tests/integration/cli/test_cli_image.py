"""``image import`` from files and URLs into the real file storage, and its interruption."""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import struct
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cli_program import DEADLINE_S, Program, finish
from commands_rig import Rig

from metastack.core.model import Image
from metastack.core.state.codec import decode

pytestmark = pytest.mark.etcd
CONTENT = b"metastack" * 200_000 + bytes(1_800_000 % 512 or 512)
QCOW2 = struct.pack(
    ">IIQIIQIIQQIIQQQQII", 0x514649FB, 3, 0, 0, 16, 1 << 30, 0, 2, 3 << 16, 1 << 16, 1, 0, 0, 0, 0, 0, 4, 104
)
"""A header whose tables are zeros, or behind the end."""
PADDED = CONTENT + bytes(-len(CONTENT) % 512)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.raw"
    path.write_bytes(PADDED)
    return path


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """An HTTP server that knows some tricks."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked = await reader.readuntil(b"\r\n\r\n")
        path = asked.split()[1].decode()
        size = len(PADDED)
        if b"user-agent: metastack/" not in asked.lower():
            writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
        elif path in ("/tiny.raw", "/d%C3%BCnn%20b%20c.raw?x=%C3%BC%20y"):
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + PADDED)
        elif path == "/short":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + PADDED[:1000])
        elif path == "/huge":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 9999999999999\r\n\r\n")
        elif path == "/away":
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n")
        elif path == "/circle":
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /circle\r\nContent-Length: 0\r\n\r\n")
        elif path == "/part":
            writer.write(b"HTTP/1.1 206 Partial Content\r\nContent-Length: %d\r\n\r\n" % size + PADDED)
        elif path == "/page":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 512\r\n\r\n" + b"<!doctype html>".ljust(512))
        elif path == "/cut.qcow2":
            head = QCOW2 + bytes(200 * 1024 - len(QCOW2))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(head) + head)
        elif path == "/no-number":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n")
        elif path == "/no-http":
            writer.write(b"220 mail.example ESMTP\r\n")
        elif path == "/moved":
            writer.write(b"HTTP/1.1 302 Found\r\nLocation: /tiny.raw\r\nContent-Length: 0\r\n\r\n")
        elif path == "/endless":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + PADDED[:1000])
            await writer.drain()
            await reader.read()
        else:
            writer.write(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with listener:
        host, port = listener.sockets[0].getsockname()
        yield f"http://{host}:{port}"


def leftovers(tmp_path: Path) -> list[str]:
    return sorted(
        p.name
        for p in tmp_path.rglob("*")
        if p.is_file() and p.suffix != ".toml" and p.name != "lock" and p.parent != tmp_path
    )


async def test_import_a_file_and_delete_it(program: Program, rig: Rig, source: Path) -> None:
    answer = await program("image", "import", "tiny", str(source), "--format", "raw", "--reason", "first")
    assert answer.status == 0, answer
    assert "tiny" in answer.out
    assert "ready" in answer.out
    entry = await rig.store.get(rig.keys.image("tiny"))
    assert entry is not None
    image = decode(Image, entry.value)
    assert image.sha256 == hashlib.sha256(PADDED).hexdigest()
    assert image.source == str(source)
    assert (await program("image", "delete", "tiny")).status == 2
    assert (await program("image", "delete", "tiny", "--yes", "-o", "json")).json()["deleted"]
    assert (await program("image", "list", "-o", "json")).json() == []


async def test_a_files_name_need_not_be_text(program: Program, rig: Rig, source: Path) -> None:
    odd = os.fsencode(source.parent) + b"/t\xfcr.raw"
    os.rename(source, odd)
    answer = await program("image", "import", "tiny", os.fsdecode(odd), "-o", "json")
    assert answer.status == 0, answer
    assert answer.json()["source"].endswith("/t\\xfcr.raw")


async def test_import_from_a_url(program: Program, rig: Rig, server: str) -> None:
    for name, path in (("a", "/tiny.raw"), ("b", "/moved")):
        url = server.replace("http://", "http://user:secret@") + path
        made = (await program("image", "import", name, url, "-o", "json")).json()
        assert made["sha256"] == hashlib.sha256(PADDED).hexdigest()
        assert "secret" not in str(made)
        assert made["source"].endswith(path)
    taken = await program("image", "import", "a", server + "/endless", "-o", "json")
    assert taken.status == 4, "known before the download"


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/nothing", 3, "404"),
        ("/short", 1, "cannot be fetched|broke off"),
        ("/huge", 1, "more than 1TiB"),
        ("/away", 1, "redirects to file://, which is not supported"),
        ("/circle", 1, "too many redirects, or a redirect loop"),
        ("/part", 1, "answered 206 Partial Content: the whole file was expected"),
        ("/page", 1, "/page: this is a page of HTML"),
        ("/cut.qcow2", 1, "/cut.qcow2: "),
        ("/no-number", 1, "announced a size of 'many' bytes"),
        ("/no-http", 1, "does not speak HTTP"),
    ],
)
async def test_urls_that_fail_leave_nothing(
    program: Program, server: str, path: str, status: int, says: str, tmp_path: Path
) -> None:
    before = leftovers(tmp_path)
    answer = await program("image", "import", "tiny", server + path)
    assert answer.status == status, answer
    assert any(word in answer.err for word in says.split("|")), answer
    assert "root:" not in answer.out
    assert "/proc/" not in answer.err and "Error" not in answer.err, answer
    assert leftovers(tmp_path) == before
    assert (await program("image", "list", "-o", "json")).json() == []


async def test_a_url_may_have_spaces_and_letters(program: Program, server: str) -> None:
    made = await program("image", "import", "a", server + "/dünn b%20c.raw?x=ü y", "-o", "json")
    assert made.status == 0, made
    assert made.json()["sha256"] == hashlib.sha256(PADDED).hexdigest()
    for url in ("http://ho st/x", "http:///x", "http://host:port/x"):
        answer = await program("image", "import", "b", url, "-o", "json")
        assert (answer.status, "is not a host" in answer.error()["message"]) == (2, True), answer


async def test_a_checksum_is_checked(program: Program, server: str, source: Path, tmp_path: Path) -> None:
    right, wrong = hashlib.sha256(PADDED).hexdigest(), "0" * 64
    for name, given in (("a", str(source)), ("b", server + "/tiny.raw")):
        answer = await program("image", "import", name, given, "--sha256", wrong, "-o", "json")
        assert answer.status == 1, answer
        assert f"{given} has the sha256 {right}, not {wrong}" in answer.error()["message"]
        assert leftovers(tmp_path) == []
        assert name not in str((await program("image", "list", "-o", "json")).json())
        made = await program("image", "import", name, given, "--sha256", f"SHA256:{right.upper()}")
        assert made.status == 0, made
        assert (await program("image", "delete", name, "--yes")).status == 0
    bad = await program("image", "import", "c", str(source), "--sha256", "abc", "-o", "json")
    assert (bad.status, bad.error()["object"]) == (2, "sha256")


async def test_other_schemes_are_refused(program: Program) -> None:
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/x"):
        answer = await program("image", "import", "tiny", url)
        assert answer.status == 2, answer


async def test_interrupting_a_download_leaves_nothing(program: Program, server: str) -> None:
    process = await program.start("image", "import", "tiny", server + "/endless")
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        await process.stderr.readuntil(b"fetching")
    process.send_signal(signal.SIGINT)
    assert (await finish(process)).status == 130
    assert (await program("image", "list", "-o", "json")).json() == []


async def test_interrupting_an_import_leaves_nothing(program: Program, rig: Rig, tmp_path: Path) -> None:
    big = tmp_path / "big.raw"
    with big.open("wb") as out:
        for _ in range(48):
            out.write(os.urandom(1 << 20))
    process = await program.start("image", "import", "big", str(big), "--format", "raw")
    async with asyncio.timeout(DEADLINE_S):
        async for _ in rig.store.watch(rig.keys.image("big"), 0):
            if await rig.store.get(rig.keys.image("big")) is not None:
                break
    process.send_signal(signal.SIGINT)
    answer = await finish(process)
    assert answer.status == 130, answer
    assert "image big: interrupted; the partial import was removed" in answer.err
    assert await rig.store.get(rig.keys.image("big")) is None
    assert [name for name in leftovers(tmp_path) if "lock" not in name] == []


async def test_a_corrupt_image_is_refused(program: Program, tmp_path: Path) -> None:
    bad = tmp_path / "bad.qcow2"
    bad.write_bytes(b"QFI\xfb" + bytes(1000))
    answer = await program("image", "import", "bad", str(bad), "-o", "json")
    assert answer.status == 1
    assert answer.error()["object"] == "image bad"
    assert "--format" not in answer.error()["hint"]
    (tmp_path / "none").touch()
    empty = (await program("image", "import", "bad", str(tmp_path / "none"), "-o", "json")).error()
    assert (empty["message"], "--format" in empty["hint"]) == (f"{tmp_path}/none: the file is empty", False)


async def test_endpoints_alone_have_no_storage(program: Program, source: Path) -> None:
    answer = await program("image", "import", "x", str(source), "--endpoint", "http://127.0.0.1:1")
    assert answer.status == 2
    assert "use a context" in answer.err
