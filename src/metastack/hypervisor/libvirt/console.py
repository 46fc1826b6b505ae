"""A guest's serial console through libvirt: bytes both ways, both directions bounded.

Owns: one libvirt stream.
Rule: when the reader is slow, the stream is no longer read, so the guest's own buffer fills, not our memory.
"""

from __future__ import annotations

import asyncio
import functools
import threading
from collections import deque
from contextlib import suppress
from typing import Final

import libvirt

from metastack.ports import Unavailable

from .connection import Connection

_CHUNK: Final = 16 * 1024
_BOUND: Final = 256 * 1024
_NO_DATA_YET: Final = -2
_WRITE_TIMEOUT_S: Final = 30.0

_READABLE: Final[int] = libvirt.VIR_STREAM_EVENT_READABLE
_WRITABLE: Final[int] = libvirt.VIR_STREAM_EVENT_WRITABLE
_OVER: Final[int] = libvirt.VIR_STREAM_EVENT_ERROR | libvirt.VIR_STREAM_EVENT_HANGUP


class Console:
    """A ConsoleStream. Callbacks run in libvirt's event thread, everything else in the loop."""

    def __init__(self, connection: Connection, loop: asyncio.AbstractEventLoop) -> None:
        self._connection = connection
        self._loop = loop
        self._lock = threading.Lock()
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._stream: libvirt.virStream | None = None
        self._ended = False
        self._closed = False
        self._wants_to_write = False
        self._readable = asyncio.Event()
        self._writable = asyncio.Event()
        self._writing = asyncio.Lock()

    def attach(self, handle: libvirt.virDomain) -> None:
        """In a thread: open the console, taking it from whoever had it."""
        stream = handle.connect().newStream(libvirt.VIR_STREAM_NONBLOCK)
        handle.openConsole(None, stream, libvirt.VIR_DOMAIN_CONSOLE_FORCE)
        self._stream = stream
        stream.eventAddCallback(_READABLE | _OVER, self._on_event, None)

    async def read(self) -> bytes:
        while True:
            with self._lock:
                if self._chunks:
                    data = b"".join(self._chunks)
                    self._chunks.clear()
                    was_full, self._size = self._size >= _BOUND, 0
                    ended = self._ended
                    break
                if self._ended:
                    return b""
                self._readable.clear()
            await self._readable.wait()
        if was_full and not ended:
            await self._watch()
        return data

    async def write(self, data: bytes) -> None:
        async with self._writing:
            view = memoryview(data)
            while view:
                stream = self._stream
                if stream is None or self._ended:
                    raise Unavailable("console: it has ended")
                chunk = bytes(view[:_CHUNK])
                sent = await self._connection.call(
                    "write console", functools.partial(_send, stream, chunk), changes=True
                )
                if sent == _NO_DATA_YET:
                    await self._wait_writable()
                else:
                    view = view[sent:]

    async def _wait_writable(self) -> None:
        self._writable.clear()
        self._wants_to_write = True
        await self._watch()
        try:
            async with asyncio.timeout(_WRITE_TIMEOUT_S):
                await self._writable.wait()
        except TimeoutError:
            raise Unavailable(f"console: the guest took nothing for {_WRITE_TIMEOUT_S:.0f} s") from None

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._end()
        with suppress(Unavailable):
            await self._connection.call("close console", lambda _virt: self._abort())

    # --- in libvirt's threads

    def _on_event(self, stream: libvirt.virStream, events: int, _opaque: object) -> None:
        if events & _READABLE:
            self._drain(stream)
        if events & _OVER:
            self._end()
            with suppress(libvirt.libvirtError):
                stream.eventRemoveCallback()
            return
        if events & _WRITABLE:
            self._wants_to_write = False
            self._in_loop(self._writable.set)
        with suppress(libvirt.libvirtError):
            stream.eventUpdateCallback(self._interest())

    def _drain(self, stream: libvirt.virStream) -> None:
        while not self._ended:
            with self._lock:
                if self._size >= _BOUND:
                    return
            try:
                data = stream.recv(_CHUNK)
            except libvirt.libvirtError:
                data = b""
            if data == _NO_DATA_YET:
                return
            if not data:
                self._end()
                return
            with self._lock:
                self._chunks.append(data)
                self._size += len(data)
            self._in_loop(self._readable.set)

    def _interest(self) -> int:
        with self._lock:
            full = self._size >= _BOUND
        wanted = _OVER
        if not full:
            wanted |= _READABLE
        if self._wants_to_write:
            wanted |= _WRITABLE
        return wanted

    async def _watch(self) -> None:
        stream = self._stream
        if stream is not None and not self._ended:
            await self._connection.call(
                "watch console", lambda _virt: stream.eventUpdateCallback(self._interest())
            )

    def _end(self) -> None:
        self._ended = True
        self._in_loop(self._readable.set)
        self._in_loop(self._writable.set)

    def _abort(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            with suppress(libvirt.libvirtError):
                stream.eventRemoveCallback()
            # What the guest has not fetched yet is lost either way: QEMU drops it when the pty closes.
            with suppress(libvirt.libvirtError):
                stream.abort()

    def _in_loop(self, function: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody reads any more
            self._loop.call_soon_threadsafe(function)  # type: ignore[arg-type]


def _send(stream: libvirt.virStream, chunk: bytes, _virt: libvirt.virConnect) -> int:
    return int(stream.send(chunk))
