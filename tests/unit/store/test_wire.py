"""The wire against peers that play a script, frame by frame; real servers: test_store_watch_stream."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc.aio
import pytest
from aetcd import rpc
from aetcd.rpc.rpc_pb2_grpc import WatchServicer, add_WatchServicer_to_server

from metastack.settings import StoreSettings
from metastack.store.etcd.store import EtcdStore
from metastack.store.etcd.watch import TOGETHER, WatchState
from metastack.store.etcd.wire import WINDOW, Wire

SOON_S = 20.0
DATA, HEADERS, RESET, SETTINGS, PUSH, PING, GOAWAY, GRANT = 0, 1, 3, 4, 5, 6, 7, 8
ANSWER = b"\x88\x5f\x10application/grpc"
"""":status 200" from HPACK's table, and a content type."""
TRAILERS = b"\x40\x0bgrpc-status\x010"


def frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def message(revision: int, size: int = 0) -> bytes:
    kv = rpc.KeyValue(key=b"/k", mod_revision=revision, value=b"x" * size)
    raw = rpc.WatchResponse(events=[rpc.Event(kv=kv)]).SerializeToString()
    return b"\0" + len(raw).to_bytes(4, "big") + raw


class Peer:
    """The other end: frames that came, and what it may send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.came: list[tuple[int, int, int, bytes]] = []
        self.window = [65_535, WINDOW]
        """Of the connection, and of the stream, whose settings say so."""

    async def take(self) -> tuple[int, int, int, bytes]:
        head = await self._reader.readexactly(9)
        body = await self._reader.readexactly(int.from_bytes(head[:3], "big"))
        found = head[3], head[4], int.from_bytes(head[5:9], "big"), body
        self.came.append(found)
        if found[0] == GRANT:
            self.window[found[2]] += int.from_bytes(body, "big")
        return found

    async def until(self, kind: int) -> tuple[int, int, int, bytes]:
        while (found := await self.take())[0] != kind:
            pass
        return found

    async def hello(self) -> None:
        assert (await self._reader.readexactly(24)).startswith(b"PRI * HTTP/2.0")
        await self.until(HEADERS)
        self.writer.write(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 100_000)) + frame(HEADERS, 4, 1, ANSWER))

    async def send(self, data: bytes) -> None:
        """As etcd would: no more than the window lets."""
        while data:
            while not (most := min(16_384, len(data), *self.window)):
                await self.take()
            self.writer.write(frame(DATA, 0, 1, data[:most]))
            await self.writer.drain()
            self.window = [left - most for left in self.window]
            data = data[most:]


@asynccontextmanager
async def against(folder: Path, script: Callable[[Peer], Awaitable[None]]) -> AsyncIterator[Wire]:
    """A wire to a peer that plays the script, then stays."""
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await script(Peer(reader, writer))
            await writer.drain()
            while await reader.read(1 << 16):
                pass
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        except Exception as error:
            done.set_exception(error)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(serve, f"{folder}/s")
    wire = await Wire.open(f"unix:{folder}/s", "/etcdserverpb.Watch/Watch", (("hasleader", "true"),), None)
    try:
        async with asyncio.timeout(SOON_S):
            yield wire
    finally:
        wire.cancel()
        server.close()
    if done.done():
        done.result()


async def revisions(wire: Wire, count: int) -> list[int]:
    return [(await wire.read()).events[0].kv.mod_revision for _ in range(count)]


@pytest.fixture
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("w")


async def test_messages_come_whole_however_they_are_cut(folder: Path) -> None:
    pong: asyncio.Future[tuple[int, int, bytes]] = asyncio.get_running_loop().create_future()

    async def script(peer: Peer) -> None:
        await peer.hello()
        raw = message(1) + message(2, 300) + message(3)
        padded = bytes([7]) + raw[200:260] + b"\0" * 7
        frames = [frame(DATA, 0, 1, raw[:3]), frame(DATA, 0, 1, raw[3:200]), frame(DATA, 8, 1, padded)]
        frames += [frame(PING, 0, 0, b"12345678"), frame(99, 0, 0, b"?"), frame(DATA, 0, 1, raw[260:])]
        for byte in b"".join(frames):
            peer.writer.write(bytes([byte]))
            await peer.writer.drain()
            await asyncio.sleep(0)
        pong.set_result((await peer.until(PING))[1:])

    async with against(folder, script) as wire:
        assert await revisions(wire, 3) == [1, 2, 3]
        assert await pong == (1, 0, b"12345678")


@pytest.mark.parametrize("flag", [0x8, 0x2])
async def test_messages_in_frames_that_are_not_plain_keep_their_place(folder: Path, flag: int) -> None:
    """Padded, or with a flag that nobody knows; in one piece of the connection with plain ones."""

    async def script(peer: Peer) -> None:
        await peer.hello()
        await peer.until(SETTINGS)  # the answer was taken before
        other = bytes([4]) + message(2) + b"\0" * 4 if flag == 0x8 else message(2)
        frames = [frame(DATA, 0, 1, message(1)), frame(DATA, flag, 1, other), frame(DATA, 0, 1, message(3))]
        peer.writer.write(b"".join(frames) + frame(DATA, 0, 1, message(4)))

    async with against(folder, script) as wire:
        assert await revisions(wire, 4) == [1, 2, 3, 4]


@pytest.mark.parametrize("cut", [3, 12, 40, 70])
async def test_messages_that_come_with_the_answer_may_be_cut_anywhere(folder: Path, cut: int) -> None:
    """The answer and the first messages in one piece of the connection, whose end is within a frame."""

    async def script(peer: Peer) -> None:
        await peer._reader.readexactly(24)
        await peer.until(HEADERS)
        raw = [frame(DATA, 0, 1, message(n, 20)) for n in range(1, 5)]
        first = frame(SETTINGS, 0, 0) + frame(HEADERS, 4, 1, ANSWER) + b"".join(raw)
        at = len(first) - len(raw[-1]) - len(raw[-2]) + cut
        peer.writer.write(first[:at])
        await peer.writer.drain()
        await peer.until(SETTINGS)  # it was taken: an acknowledgement comes
        peer.writer.write(first[at:])

    async with against(folder, script) as wire:
        assert await revisions(wire, 4) == [1, 2, 3, 4]


async def test_a_peer_that_sends_more_than_it_may_is_left(folder: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()
        for revision in range(1, 40):
            peer.writer.write(frame(DATA, 0, 1, message(revision, 10_000)))

    async with against(folder, script) as wire:
        async with asyncio.timeout(SOON_S):
            while not wire.why:  # noqa: ASYNC110 - nothing else tells, as nobody reads
                await asyncio.sleep(0.01)
        assert wire.why == "the member sends more than it may"


async def test_a_message_longer_than_the_window_comes_through(folder: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()
        await peer.send(message(1, 3 * WINDOW) + message(2))

    async with against(folder, script) as wire:
        assert await revisions(wire, 2) == [1, 2]


async def test_padding_is_given_back_too(folder: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()
        for byte in message(1, 2 * WINDOW // 256):
            while min(peer.window) < 257:
                await peer.take()
            peer.writer.write(frame(DATA, 8, 1, bytes([255, byte]) + b"\0" * 255))
            peer.window = [left - 257 for left in peer.window]
            await peer.writer.drain()

    async with against(folder, script) as wire:
        assert await revisions(wire, 1) == [1]


async def test_a_slow_reader_gets_no_more_than_the_window(folder: Path) -> None:
    sent, size = 0, 10_000
    full = asyncio.Event()

    async def script(peer: Peer) -> None:
        nonlocal sent
        await peer.hello()
        for revision in range(1, 101):
            raw = message(revision, size)
            if min(peer.window) < len(raw):
                full.set()
            await peer.send(raw)
            sent += 1

    async with against(folder, script) as wire:
        await full.wait()
        for _ in range(100):
            await asyncio.sleep(0)  # whatever the wire might still grant
        assert sent * size <= WINDOW
        assert await revisions(wire, 100) == list(range(1, 101))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "the connection was closed"),
        (frame(DATA, 0, 1, b"x" * 16_385), "no HTTP/2 of a watch: Received overlong frame"),
        (frame(77, 0, 0) + frame(9, 4, 1, b"\x88"), "no HTTP/2 of a watch"),
        (frame(HEADERS, 4, 1, b"\x8d" + ANSWER[1:]), "none of gRPC"),
        (frame(HEADERS, 4, 1, b"\x8d") + frame(DATA, 0, 1, message(1)), "none of gRPC"),
        (frame(HEADERS, 4, 1, ANSWER[1:]), "no HTTP/2 of a watch"),
        (frame(HEADERS, 4, 1, b"\x88\x5f"), "no HTTP/2 of a watch: Error decoding header block"),
        (frame(HEADERS, 5, 1, ANSWER), "the stream ended"),
        (frame(HEADERS, 4, 1, ANSWER) + frame(HEADERS, 5, 1, TRAILERS), "the stream ended"),
        (frame(DATA, 0, 1, message(1)), "no HTTP/2 of a watch: cannot receive data before headers"),
        (frame(HEADERS, 4, 1, ANSWER) + frame(DATA, 0, 3, message(1)), "no HTTP/2 of a watch"),
        (frame(HEADERS, 4, 1, ANSWER) + frame(DATA, 0, 1, b"\1\0\0\0\1x"), "compressed"),
        (frame(HEADERS, 4, 1, ANSWER) + frame(DATA, 8, 1, b"\x09abc"), "invalid padding"),
        (frame(HEADERS, 4, 1, ANSWER) + frame(DATA, 0, 1, b"\0\0\0\0\1\xff"), "does not parse"),
        (frame(RESET, 0, 1, (7).to_bytes(4, "big")), "reset the stream (code 7)"),
        (frame(GOAWAY, 0, 0, b"\0" * 8 + b"max_age"), "goes away: max_age"),
        (frame(GOAWAY, 0, 0, b"\0" * 8), "goes away: no reason given"),
        (frame(PUSH, 4, 1, b"\0\0\0\2"), "no HTTP/2 of a watch: Received pushed stream"),
    ],
)
async def test_what_is_not_understood_ends_it_with_a_reason(folder: Path, answer: bytes, why: str) -> None:
    async def script(peer: Peer) -> None:
        await peer._reader.readexactly(24)
        peer.writer.write(answer)
        if answer.startswith(b"HTTP/1.1"):  # who waits for more of it is ended by the watch's own patience
            peer.writer.write_eof()

    async with against(folder, script) as wire:
        assert await wire.read() is grpc.aio.EOF
        assert why in wire.why
        with pytest.raises(asyncio.InvalidStateError):
            await wire.write(rpc.WatchRequest())


async def test_what_came_before_the_end_is_still_read(folder: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()
        peer.writer.write(frame(DATA, 0, 1, message(1) + message(2)) + frame(HEADERS, 5, 1, TRAILERS))

    async with against(folder, script) as wire:
        assert await revisions(wire, 2) == [1, 2]
        assert await wire.read() is grpc.aio.EOF


async def test_a_peer_that_takes_nothing_is_not_written_to(folder: Path) -> None:
    async def script(peer: Peer) -> None:
        await peer.hello()
        peer.writer.write(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 10)) + frame(DATA, 0, 1, message(1)))

    async with against(folder, script) as wire:
        assert await revisions(wire, 1) == [1]
        with pytest.raises(asyncio.InvalidStateError, match="takes no requests"):
            await wire.write(rpc.WatchRequest(create_request=rpc.WatchCreateRequest(key=b"/some/key")))


class _Says(WatchServicer):  # type: ignore[misc]
    async def Watch(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        await anext(requests)
        yield rpc.WatchResponse(created=True, header=rpc.ResponseHeader(revision=9, cluster_id=7))
        kv = rpc.KeyValue(key=b"/k", mod_revision=10)
        yield rpc.WatchResponse(events=[rpc.Event(kv=kv)])
        async for _ in requests:
            pass


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 502 Bad Gateway\r\n\r\n"])
async def test_where_the_wire_is_not_understood_grpc_watches(folder: Path, answer: bytes) -> None:
    """Something between that ends what does not look like gRPC's own library."""
    refused = 0

    async def between(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal refused
        first = await reader.read(1 << 12)
        if struct.pack(">HI", 4, WINDOW) in first:
            refused += 1
            writer.write(answer)
            writer.close()
            return
        other, to = await asyncio.open_unix_connection(f"{folder}/real")
        to.write(first)
        await asyncio.gather(_copy(reader, to), _copy(other, writer))

    real = grpc.aio.server()
    add_WatchServicer_to_server(_Says(), real)
    real.add_insecure_port(f"unix:{folder}/real")
    await real.start()
    server = await asyncio.start_unix_server(between, f"{folder}/s")
    store = EtcdStore(StoreSettings(endpoints=(f"unix:{folder}/s",)))
    try:
        async with asyncio.timeout(SOON_S):
            batch = await anext(aiter(store.watch("/", 9)))
        assert [event.revision for event in batch.events] == [10]
        assert refused == 1
    finally:
        await store.close()
        await real.stop(None)
        server.close()


async def test_what_has_come_already_is_one_batch(folder: Path) -> None:
    """And no revision twice in it, and no more in one than the loop can spare the time for."""
    many, again = range(5, 5 + 2 * TOGETHER), 3

    async def script(peer: Peer) -> None:
        await peer.hello()
        await peer.send(b"".join(message(revision) for revision in [*([5] * again), *many]))

    async with against(folder, script) as wire:
        async with asyncio.timeout(SOON_S):
            while len(wire._messages) < again + len(many):  # noqa: ASYNC110 - nothing else tells
                await asyncio.sleep(0.01)
        watching = WatchState(None, b"/", b"0", 4)  # type: ignore[arg-type]
        watching._call = wire
        sizes, revisions = [], list[int]()
        while wire.there:
            batch = await watching._receive()
            assert batch is not None
            assert batch.revision == batch.events[-1].revision
            sizes.append(len(batch.events))
            revisions += [event.revision for event in batch.events]
        assert revisions == list(many)
        assert sizes == [TOGETHER - again, TOGETHER, again]


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
    except ConnectionError:
        pass
    finally:
        writer.close()
