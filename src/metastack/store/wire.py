"""The wire: one watch stream on a connection of its own, HTTP/2 as far as etcd's answers to a watch need it.

Owns: the connection, its frames and its flow control; messages as bytes until somebody takes them.
Refuses: requests with one answer, and errors' texts: those are gRPC's (:mod:`.channel`). What it does not
understand ends the stream with a reason, and the next one is gRPC's (:mod:`.watch`).
Rule: nothing is delivered but whole messages of a stream that answered ":status 200", in the order in which
they came; and etcd may send so much as fits the window, which opens as messages are taken.

Why: gRPC for Python hands each message from its own thread to the loop's, 60 to 130 us each; here those that
have arrived are taken with one system call, and decoded when asked for, 15 us each (docs/scale.md).
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import grpc.aio
from aetcd import rpc

if TYPE_CHECKING:
    from ssl import SSLContext

WINDOW: Final = 1 << 18
"""Bytes that etcd may send ahead of who reads: some hundred messages, a few milliseconds of work."""

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _RESET, _SETTINGS, _PUSH, _PING, _GOAWAY, _WINDOW, _MORE = 0, 1, 3, 4, 5, 6, 7, 8, 9
_END, _ACK, _PADDED, _PRIORITY, _END_HEADERS = 0x1, 0x1, 0x8, 0x20, 0x4
_INITIAL_WINDOW: Final = 4
"""Identifier of a setting."""
_LARGEST_FRAME: Final = 1 << 14
_FIRST_WINDOW: Final = 65_535
"""What each side may send until it is told otherwise."""
_LONGEST_TEXT: Final = 126
"""Of a header here; a longer one would be counted in more than one byte."""


def _frame(kind: int, flags: int, stream: int, body: bytes = b"") -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def _text(text: str) -> bytes:
    raw = text.encode("ascii")
    if len(raw) > _LONGEST_TEXT:
        raise ValueError(f"{text!r} is too long for a header")
    return bytes([len(raw)]) + raw


def _request_headers(path: str, authority: str, secure: bool, metadata: Sequence[tuple[str, str]]) -> bytes:
    """HPACK without its memory (RFC 7541, 6.2.2): numbers are of names in its static table."""
    out = b"\x83" + (b"\x87" if secure else b"\x86")  # :method POST, :scheme
    out += b"\x04" + _text(path) + b"\x01" + _text(authority) + b"\x0f\x10" + _text("application/grpc")
    for name, value in (("te", "trailers"), *metadata):
        out += b"\x00" + _text(name) + _text(value)
    return out


class Wire(asyncio.Protocol):
    """One stream; looks like gRPC's: ``write``, ``read`` (EOF at its end), ``cancel``."""

    def __init__(self, path: str, authority: str, secure: bool, metadata: Sequence[tuple[str, str]]) -> None:
        self.why = ""
        """Why it ended; empty: it did not."""
        self._hello = _request_headers(path, authority, secure, metadata)
        self._transport: Any = None
        self._frames = b""
        """The beginning of a frame whose rest has not come."""
        self._part = bytearray()
        """And that of a message."""
        self._messages: deque[bytes] = deque()
        self._waiting = 0
        """Bytes of messages that nobody has taken: so much of the window stays shut."""
        self._owed = 0
        """Bytes that came and are not given back yet."""
        self._may_send = [_FIRST_WINDOW, _FIRST_WINDOW]
        """To the connection, and to the stream."""
        self._stream_window = _FIRST_WINDOW
        self._accepted = False
        self._reader: asyncio.Future[None] | None = None

    @classmethod
    async def open(
        cls, target: str, path: str, metadata: Sequence[tuple[str, str]], tls: SSLContext | None
    ) -> Wire:
        """Connect to gRPC's name for an endpoint; raises OSError (of which TLS errors are), ValueError."""
        loop = asyncio.get_running_loop()
        if target.startswith("unix:"):
            wire = cls(path, "localhost", False, metadata)
            await loop.create_unix_connection(lambda: wire, target.removeprefix("unix:"))
            return wire
        wire = cls(path, target, tls is not None, metadata)
        host, _, port = target.rpartition(":")
        await loop.create_connection(lambda: wire, host.strip("[]"), int(port), ssl=tls)
        return wire

    # --- what gRPC's streams have, too

    async def write(self, request: Any) -> None:
        """Send one message."""
        raw = request.SerializeToString()
        body = b"\0" + len(raw).to_bytes(4, "big") + raw
        if len(body) > min(_LARGEST_FRAME, *self._may_send):
            self.end("the stream takes no requests")
        if self.why:
            raise asyncio.InvalidStateError(self.why)
        self._may_send = [left - len(body) for left in self._may_send]
        self._transport.write(_frame(_DATA, 0, 1, body))

    async def read(self) -> Any:
        """The next message, at once if it is there; ``grpc.aio.EOF`` after the last."""
        while not self._messages:
            if self.why:
                return grpc.aio.EOF
            self._reader = asyncio.get_running_loop().create_future()
            await self._reader
        raw = self._messages.popleft()
        self._waiting -= len(raw)
        if self._owed - self._waiting > WINDOW // 2:
            self._give_back()
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
        wide = struct.pack(">HIHI", 2, 0, _INITIAL_WINDOW, WINDOW)  # 2: no pushes
        more = (WINDOW - _FIRST_WINDOW).to_bytes(4, "big")
        hello = _frame(_HEADERS, _END_HEADERS, 1, self._hello)
        self._transport.write(_PREFACE + _frame(_SETTINGS, 0, 0, wide) + _frame(_WINDOW, 0, 0, more) + hello)

    def connection_lost(self, exc: Exception | None) -> None:
        self.end(f"the connection broke: {exc}" if exc is not None else "the connection was closed")

    def data_received(self, data: bytes) -> None:
        if self._frames:
            data = self._frames + data
        at, size = 0, len(data)
        while size - at >= 9:
            length = data[at] << 16 | data[at + 1] << 8 | data[at + 2]
            end = at + 9 + length
            if length > _LARGEST_FRAME:
                return self.end("a frame is too large")
            if end > size:
                break
            kind, flags = data[at + 3], data[at + 4]
            stream = int.from_bytes(data[at + 5 : at + 9], "big") & 0x7FFFFFFF
            self._frame(kind, flags, stream, data[at + 9 : end])
            if self.why:
                return None
            at = end
        self._frames = data[at:]
        if self._messages:
            self._wake()
        return None

    # --- frames

    def _frame(self, kind: int, flags: int, stream: int, body: bytes) -> None:
        if flags & _PADDED and kind in (_DATA, _HEADERS):
            if not body or body[0] >= len(body):
                return self.end("padding is longer than its frame")
            padding = body[0]
            if kind == _DATA:
                self._owed += 1 + padding  # it counts, too
            body = body[1 : len(body) - padding]
        if kind == _DATA:
            if stream != 1 or not self._accepted:
                return self.end("data before an answer")
            self._data(body)
            if flags & _END:
                self.end("the stream ended")
        elif kind == _WINDOW and len(body) == 4:
            if stream <= 1:
                self._may_send[stream] += int.from_bytes(body, "big") & 0x7FFFFFFF
        elif kind == _PING:
            if not flags & _ACK:
                self._transport.write(_frame(_PING, _ACK, 0, body))
        elif kind == _SETTINGS:
            if not flags & _ACK:
                self._settings(body)
        elif kind == _HEADERS:
            self._headers(flags, body[5:] if flags & _PRIORITY else body)
        elif kind == _RESET:
            self.end(f"the member reset the stream (code {int.from_bytes(body, 'big')})")
        elif kind == _GOAWAY:
            self.end(f"the member goes away: {body[8:].decode(errors='replace') or 'no reason given'}")
        elif kind in (_PUSH, _MORE, _WINDOW):
            self.end(f"a frame of kind {kind} that no watch has")
        return None

    def _headers(self, flags: int, block: bytes) -> None:
        """Those of the answer begin with ":status 200"; those at the end say why, which gRPC would know."""
        while block and block[0] & 0xE0 == 0x20:  # an update of a table that is not used here
            block = block[1:] if block[0] & 0x1F < 0x1F else b""
        if flags & _END or self._accepted:
            self.end("the stream ended")
        elif not block.startswith(b"\x88") or not flags & _END_HEADERS:
            self.end("the answer is none of gRPC")
        else:
            self._accepted = True

    def _settings(self, body: bytes) -> None:
        for name, value in struct.iter_unpack(">HI", body[: len(body) // 6 * 6]):
            if name == _INITIAL_WINDOW:
                self._may_send[1] += value - self._stream_window
                self._stream_window = value
        self._transport.write(_frame(_SETTINGS, _ACK, 0))

    def _data(self, body: bytes) -> None:
        """gRPC's messages: a flag for compression, a length, and so many bytes; across frames."""
        self._owed += len(body)
        part, at = self._part, 0
        part += body
        size = len(part)
        while size - at >= 5:
            end = at + 5 + int.from_bytes(part[at + 1 : at + 5], "big")
            if part[at]:
                return self.end("a message is compressed")
            if end > size:
                break
            self._messages.append(bytes(part[at + 5 : end]))
            self._waiting += end - at - 5
            at = end
        del part[:at]
        # A message may be longer than the window: its parts must not keep it shut.
        if self._owed - self._waiting > WINDOW // 2:
            self._give_back()
        return None

    def _give_back(self) -> None:
        """Let etcd send more: as much as came and does not wait for a reader."""
        if self.why:
            return
        size, self._owed = self._owed - self._waiting, self._waiting
        more = size.to_bytes(4, "big")
        self._transport.write(_frame(_WINDOW, 0, 0, more) + _frame(_WINDOW, 0, 1, more))

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)
