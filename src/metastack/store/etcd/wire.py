"""The wire: one watch stream on a connection of its own, HTTP/2 by the library ``h2``.

Owns: the connection, and messages as bytes until somebody takes them.
Refuses: HTTP/2 itself, which is ``h2``'s, but for the frames that carry messages: those are plain, and nearly
all that comes; requests with one answer, and errors' texts: those are gRPC's (:mod:`.channel`). What it does
not understand ends the stream with a reason, and the next one is gRPC's (:mod:`.watch`).
Rule: nothing is delivered but whole messages of a stream that answered ":status 200", in the order in which
they came; and etcd may send so much as fits the window, which opens when all that came has been taken.

Why: gRPC for Python hands each message from its own thread to the loop's; here those that have arrived are
taken with one system call, and decoded when asked for. A plain frame costs a quarter of what it costs by way of
``h2``, which never hears of it: both windows are kept here then (docs/lab/scale.md).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc.aio
from aetcd import rpc
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import ConnectionTerminated, DataReceived, Event, ResponseReceived, StreamEnded, StreamReset
from h2.exceptions import H2Error
from h2.settings import SettingCodes, Settings
from hyperframe.frame import WindowUpdateFrame

if TYPE_CHECKING:
    from ssl import SSLContext

WINDOW: Final = 1 << 18
"""Bytes that etcd may send ahead of who reads: some hundred messages, a few milliseconds of work."""
_STREAM: Final = 1
_PLAIN: Final = b"\0\0" + _STREAM.to_bytes(4, "big")
"""Kind, flags and stream of a frame with a part of a message and nothing else."""
_LONGEST: Final = 1 << 14
"""Of a frame, as nothing else was said to the peer."""


class Wire(asyncio.Protocol):
    """One stream; looks like gRPC's: ``write``, ``read`` (EOF at its end), ``cancel``."""

    def __init__(self, path: str, authority: str, secure: bool, metadata: Sequence[tuple[str, str]]) -> None:
        self.why = ""
        """Why it ended; empty: it did not."""
        self._headers = [(":method", "POST"), (":scheme", "https" if secure else "http")]
        self._headers += [(":path", path), (":authority", authority), ("te", "trailers")]
        self._headers += [("content-type", "application/grpc"), *metadata]
        self._h2 = H2Connection(H2Configuration(client_side=True, header_encoding=None))
        self._transport: Any = None
        self._part = bytearray()
        """The beginning of a message whose rest has not come."""
        self._messages: deque[bytes] = deque()
        self._frames = b""
        """The beginning of a frame whose rest has not come."""
        self._strange = False
        """Something came that is no frame: everything is for h2 to judge."""
        self._answered = False
        """":status 200" came: what follows are messages."""
        self._owed = 0
        """Bytes that came by way of h2 and are not acknowledged: so much of the window is shut."""
        self._taken = 0
        """The same of plain frames."""
        self._reader: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls, target: str, path: str, metadata: Sequence[tuple[str, str]], tls: SSLContext | None
    ) -> Wire:
        """Connect to gRPC's name for an endpoint; raises OSError (of which TLS errors are), ValueError."""
        loop = asyncio.get_running_loop()
        if target.startswith("unix:"):
            wire, file = cls(path, "localhost", tls is not None, metadata), target.removeprefix("unix:")
            name = "localhost" if tls else None
            await loop.create_unix_connection(lambda: wire, file, ssl=tls, server_hostname=name)
            return wire
        wire = cls(path, target, tls is not None, metadata)
        host, _, port = target.rpartition(":")
        await loop.create_connection(lambda: wire, host.strip("[]"), int(port), ssl=tls)
        return wire

    # --- what gRPC's streams have, too

    async def write(self, request: Any) -> None:
        """Send one message."""
        raw = request.SerializeToString()
        if not self.why:
            try:
                self._h2.send_data(_STREAM, b"\0" + len(raw).to_bytes(4, "big") + raw)
            except H2Error as error:
                self.end(f"the stream takes no requests: {error}")
        if self.why:
            raise asyncio.InvalidStateError(self.why)
        self._flush()

    @property
    def there(self) -> bool:
        """A message has come and can be read at once."""
        return bool(self._messages)

    async def read(self) -> Any:
        """The next message, at once if it is there; ``grpc.aio.EOF`` after the last."""
        while not self._messages:
            if self.why:
                return grpc.aio.EOF
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        raw = self._messages.popleft()
        if not self._messages:
            self._acknowledge()
        try:
            return rpc.WatchResponse.FromString(raw)
        except Exception as error:  # protobuf's DecodeError, which is of its C part
            self.end(f"a message does not parse: {error}")
            self._messages.clear()
            return grpc.aio.EOF

    def cancel(self) -> None:
        self.end("cancelled")

    def end(self, why: str) -> None:
        """No more of it: what has come can still be read."""
        if not self.why:
            self.why = why
        if self._transport is not None:
            self._transport.abort()
        self._wake()

    # --- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        tls = transport.get_extra_info("ssl_object")
        if tls is not None and tls.selected_alpn_protocol() != "h2":
            self.end("no HTTP/2 behind TLS")
            return
        wide = {SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: WINDOW}
        self._h2.local_settings = Settings(client=True, initial_values=wide)
        self._h2.initiate_connection()
        self._h2.increment_flow_control_window(WINDOW - self._h2.inbound_flow_control_window)
        self._h2.send_headers(_STREAM, self._headers)
        self._flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(f"the connection broke: {exc}" if exc is not None else "the connection was closed")

    def data_received(self, data: bytes) -> None:
        other = self._take_plain(data)
        try:
            events = self._h2.receive_data(other) if other else ()
        except H2Error as error:
            return self.end(f"no HTTP/2 of a watch: {error}")
        for event in events:
            if self.why:
                return None
            self._event(event)
        if self._messages:
            self._wake()
        else:  # A message may be longer than the window: its parts must not keep it shut.
            self._acknowledge()
        return self._flush()

    # --- what comes

    def _take_plain(self, data: bytes) -> bytes:
        """Messages of whole plain frames; returns what is h2's. The order between the two is kept: what ends
        the stream comes after its messages, and those that came with its beginning are h2's, too."""
        if self._strange:
            return data
        data, at = self._frames + data if self._frames else data, 0
        size, others, plain = len(data), list[bytes](), self._answered
        while size - at >= 9 and not self.why:
            end = at + 9 + (length := int.from_bytes(data[at : at + 3], "big"))
            if length > _LONGEST:
                self._strange = True  # h2 says what is wrong with it
                return b"".join((*others, data[at:]))
            if end > size:
                break
            if plain and data[at + 3 : at + 9] == _PLAIN:
                self._taken += length
                self._data(data[at + 9 : end])
            else:
                plain = plain and data[at + 3] != _PLAIN[0]  # padded: what follows comes after it
                others.append(data[at:end])
            at = end
        self._frames = data[at:]
        if self._taken + self._owed > WINDOW:
            self.end("the member sends more than it may")
        return b"".join(others)

    def _event(self, event: Event) -> None:
        match event:
            case DataReceived():
                self._owed += event.flow_controlled_length
                self._data(event.data)
            case ResponseReceived():
                if (b":status", b"200") not in event.headers:
                    self.end("the answer is none of gRPC")
                self._answered = True
            case StreamEnded():  # by headers that say why, which gRPC would know
                self.end("the stream ended")
            case StreamReset():
                self.end(f"the member reset the stream (code {int(event.error_code)})")
            case ConnectionTerminated():
                text = (event.additional_data or b"no reason given").decode(errors="replace")
                self.end(f"the member goes away: {text}")

    def _data(self, data: bytes) -> None:
        """gRPC's messages: a flag for compression, a length, and the bytes; across frames."""
        part, at = self._part, 0
        part += data
        size = len(part)
        while size - at >= 5:
            end = at + 5 + int.from_bytes(part[at + 1 : at + 5], "big")
            if part[at]:
                part.clear()
                return self.end("a message is compressed")
            if end > size:
                break
            self._messages.append(bytes(part[at + 5 : end]))
            at = end
        del part[:at]
        return None

    def _acknowledge(self) -> None:
        """Let etcd send more, now that nothing waits for a reader."""
        if self.why:
            return
        if self._owed:
            self._h2.acknowledge_received_data(self._owed, _STREAM)
            self._owed = 0
            self._flush()
        if self._taken >= WINDOW // 4:  # each grant is a message, too; h2 may owe half of the window besides
            for stream in (0, _STREAM):
                self._transport.write(WindowUpdateFrame(stream, window_increment=self._taken).serialize())
            self._taken = 0

    def _flush(self) -> None:
        if not self.why and (out := self._h2.data_to_send()):
            self._transport.write(out)

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)
