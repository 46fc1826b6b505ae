"""The wire: one watch stream on a connection of its own, HTTP/2 by the library ``h2``.

Owns: the connection, and messages as bytes until somebody takes them.
Refuses: HTTP/2 itself, which is ``h2``'s; requests with one answer, and errors' texts: those are gRPC's
(:mod:`.channel`). What it does not understand ends the stream with a reason, and the next one is gRPC's
(:mod:`.watch`).
Rule: nothing is delivered but whole messages of a stream that answered ":status 200", in the order in which
they came; and etcd may send so much as fits the window, which opens when all that came has been taken.

Why: gRPC for Python hands each message from its own thread to the loop's, 60 to 79 us each; here those that
have arrived are taken with one system call, and decoded when asked for, 38 to 46 us each (docs/scale.md).
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

if TYPE_CHECKING:
    from ssl import SSLContext

WINDOW: Final = 1 << 18
"""Bytes that etcd may send ahead of who reads: some hundred messages, a few milliseconds of work."""
_STREAM: Final = 1


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
        self._owed = 0
        """Bytes that came and are not acknowledged: so much of the window is shut."""
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
        if not self.why:
            try:
                self._h2.send_data(_STREAM, b"\0" + len(raw).to_bytes(4, "big") + raw)
            except H2Error as error:
                self.end(f"the stream takes no requests: {error}")
        if self.why:
            raise asyncio.InvalidStateError(self.why)
        self._flush()

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
        try:
            events = self._h2.receive_data(data)
        except H2Error as error:
            return self.end(f"no HTTP/2 of a watch: {error}")
        for event in events:
            if self.why:
                return None
            self._event(event)
        if self._messages:
            self._wake()
        elif self._owed:  # A message may be longer than the window: its parts must not keep it shut.
            self._acknowledge()
        return self._flush()

    # --- what comes

    def _event(self, event: Event) -> None:
        match event:
            case DataReceived():
                self._owed += event.flow_controlled_length
                self._data(event.data)
            case ResponseReceived() if (b":status", b"200") not in event.headers:
                self.end("the answer is none of gRPC")
            case StreamEnded():  # by headers that say why, which gRPC would know
                self.end("the stream ended")
            case StreamReset():
                self.end(f"the member reset the stream (code {int(event.error_code)})")
            case ConnectionTerminated():
                text = (event.additional_data or b"no reason given").decode(errors="replace")
                self.end(f"the member goes away: {text}")

    def _data(self, data: bytes) -> None:
        """gRPC's messages: a flag for compression, a length, and so many bytes; across frames."""
        part, at = self._part, 0
        part += data
        size = len(part)
        while size - at >= 5:
            end = at + 5 + int.from_bytes(part[at + 1 : at + 5], "big")
            if part[at]:
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
        self._h2.acknowledge_received_data(self._owed, _STREAM)
        self._owed = 0
        self._flush()

    def _flush(self) -> None:
        if not self.why and (out := self._h2.data_to_send()):
            self._transport.write(out)

    def _wake(self) -> None:
        reader, self._reader = self._reader, None
        if reader is not None and not reader.done():
            reader.set_result(None)
