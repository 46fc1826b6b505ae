"""A watch stream read off the socket: HTTP/2 as far as etcd and its proxy need it, and nothing else.

Owns: many cheap readers in one process, so that what is measured is etcd and not Python's gRPC (which takes as
long for a message as etcd takes for ten). Refuses: writing anything but the one request; flow control, which it
opens as wide as it goes; TLS.
"""

from __future__ import annotations

import asyncio
import struct
import time
from typing import Final, cast

from aetcd import rpc

from metastack.core.state.keys import prefix_end
from metastack.store.etcd.messages import key_of

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DATA, _HEADERS, _SETTINGS, _PING, _WINDOW = 0, 1, 4, 6, 8
_ACK, _END_HEADERS = 1, 4
_WIDE: Final = (1 << 31) - 1


def _frame(kind: int, flags: int, stream: int, body: bytes) -> bytes:
    return len(body).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + body


def _text(name: bytes, value: str) -> bytes:
    """A header that is indexed nowhere; ``name`` is already encoded."""
    return name + bytes([len(value)]) + value.encode()


def _headers(authority: str) -> bytes:
    return (
        b"\x83\x86"  # :method POST, :scheme http
        + _text(b"\x04", "/etcdserverpb.Watch/Watch")
        + _text(b"\x01", authority)
        + _text(b"\x00\x02te", "trailers")
        + _text(b"\x0f\x10", "application/grpc")
    )


class Followed:
    """How far a stream is, and waiting until it is so far."""

    def __init__(self) -> None:
        self.revision = self.messages = 0
        self.opened = asyncio.Event()
        self._wanted, self._there = 0, asyncio.Event()

    def came(self, revision: int) -> None:
        """A message up to that revision."""
        self.messages += 1
        self.revision = revision
        if self._wanted and revision >= self._wanted:
            self._there.set()

    async def reached(self, revision: int) -> None:
        """Return when that revision came."""
        self._there.clear()
        self._wanted = revision
        if self.revision < revision:
            await self._there.wait()


class Wire(Followed, asyncio.Protocol):
    """One connection with one stream, with one watch for each prefix."""

    def __init__(self, authority: str, prefixes: tuple[str, ...], keep: bool) -> None:
        super().__init__()
        self._authority, self._prefixes = authority, prefixes
        self._bytes, self._messages = b"", b""
        self.created = self.received_bytes = 0
        self.arrivals: list[tuple[int, float]] | None = [] if keep else None
        """Revision and when it came, where that is asked for."""
        self.lost = ""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = cast("asyncio.Transport", transport)  # uvloop's is none by name
        wide = struct.pack(">HI", 4, _WIDE)
        more = (_WIDE - 65_535).to_bytes(4, "big")
        out = _PREFACE + _frame(_SETTINGS, 0, 0, wide) + _frame(_WINDOW, 0, 0, more)
        out += _frame(_HEADERS, _END_HEADERS, 1, _headers(self._authority))
        for prefix in self._prefixes:
            key = key_of(prefix)
            create = rpc.WatchCreateRequest(key=key, range_end=prefix_end(prefix), fragment=True)
            raw = rpc.WatchRequest(create_request=create).SerializeToString()
            out += _frame(_DATA, 0, 1, b"\0" + len(raw).to_bytes(4, "big") + raw)
        self._transport.write(out)

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost = str(exc or "the connection was closed")

    def data_received(self, data: bytes) -> None:
        self.received_bytes += len(data)
        data, at = self._bytes + data, 0
        while len(data) >= at + 9:
            end = at + 9 + int.from_bytes(data[at : at + 3], "big")
            if len(data) < end:
                break
            kind, flags, body = data[at + 3], data[at + 4], data[at + 9 : end]
            if kind == _DATA:
                self._grpc(body)
            elif kind == _SETTINGS and not flags & _ACK:
                self._transport.write(_frame(_SETTINGS, _ACK, 0, b""))
            elif kind == _PING and not flags & _ACK:
                self._transport.write(_frame(_PING, _ACK, 0, body))
            at = end
        self._bytes = data[at:]

    def _grpc(self, body: bytes) -> None:
        self._messages += body
        while len(self._messages) >= 5:
            end = 5 + int.from_bytes(self._messages[1:5], "big")
            if len(self._messages) < end:
                return
            self._response(rpc.WatchResponse.FromString(self._messages[5:end]))
            self._messages = self._messages[end:]

    def _response(self, response: rpc.WatchResponse) -> None:
        if response.created:
            self.created += 1
            if self.created == len(self._prefixes):
                self.opened.set()
        if not response.events:
            return
        if self.arrivals is not None:
            now_s = time.monotonic()
            self.arrivals += [(n, now_s) for n in sorted({event.kv.mod_revision for event in response.events})]
        self.came(response.events[-1].kv.mod_revision)

    @classmethod
    async def open(cls, endpoint: str, prefixes: tuple[str, ...], keep: bool) -> Wire:
        host, _, port = endpoint.removeprefix("http://").rpartition(":")
        loop = asyncio.get_running_loop()
        _, wire = await loop.create_connection(lambda: cls(f"{host}:{port}", prefixes, keep), host, int(port))
        async with asyncio.timeout(30):
            await wire.opened.wait()
        return wire
