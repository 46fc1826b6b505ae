"""The Network port on Linux bridges that exist already.

Owns: one packet socket a bridge, with a filter in the kernel, and the map from MAC to addresses.
Refuses: changing the host's network.
Rule: what guests can fill is bounded: addresses a MAC, MACs in all, news that nobody fetched.
"""

from __future__ import annotations

import asyncio
import ctypes
import re
import socket
import struct
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

import structlog

from metastack.ports import CannotStart

from .frames import BPF, SNAP_LENGTH, learn

log = structlog.get_logger()

_ETH_P_ALL: Final = 0x0003
_SO_ATTACH_FILTER: Final = 26
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")
_MACS: Final = 8192
_ADDRESSES: Final = 4
_FRAMES_AT_ONCE: Final = 64
_WINDOW_S: Final = 0.05
_FRAMES_A_WINDOW: Final = 128
"""Frames of one bridge that are looked at in that time, 2,560 a second; each turn counts as a full one, so that
few frames cost few turns. The kernel drops what overflows: ARP repeats itself."""


class LinuxNetwork:
    """Bridges of this host. ``sysfs`` is where the kernel shows them."""

    def __init__(self, sysfs: str = "/sys/class/net") -> None:
        self._sysfs = sysfs
        self._open = False
        self._may_listen = True
        self._sockets: dict[str, socket.socket] = {}
        self._windows: dict[str, tuple[float, int]] = {}
        """Of each bridge: since when frames are counted, and how many were allowed since."""
        self._learned: OrderedDict[str, tuple[str, ...]] = OrderedDict()
        self._streams: weakref.WeakSet[_Changes] = weakref.WeakSet()

    async def open(self, bridges: tuple[str, ...]) -> None:
        """Listen on these bridges; one that does not exist (yet) is listened to once :meth:`check` finds it."""
        self._open = True
        for bridge in bridges:
            if self._exists(bridge):
                self._listen(bridge)
            else:
                log.warning("bridge_missing", bridge=bridge)

    async def close(self) -> None:
        self._open = False
        for bridge in list(self._sockets):
            self._stop(bridge)
        for stream in list(self._streams):
            stream.close()

    async def check(self, bridge: str) -> None:
        if not self._exists(bridge):
            raise CannotStart(f"this node has no bridge {bridge!r}")
        if self._open:
            self._listen(bridge)

    def bridges(self) -> tuple[str, ...]:
        return tuple(sorted(found.parent.name for found in Path(self._sysfs).glob("*/bridge")))

    def addresses(self, mac: str) -> tuple[str, ...]:
        return self._learned.get(mac.lower(), ())

    async def answers(self, address: str, port: int, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                _, writer = await asyncio.open_connection(address, port)
        except (OSError, TimeoutError):
            return False
        writer.transport.abort()  # nothing was said: no need to say goodbye
        return True

    def changes(self) -> AsyncIterator[str]:
        stream = _Changes()
        self._streams.add(stream)
        return stream

    def _exists(self, bridge: str) -> bool:
        return _NAME.fullmatch(bridge) is not None and Path(self._sysfs, bridge, "bridge").is_dir()

    # --- learning

    def _listen(self, bridge: str) -> None:
        if bridge in self._sockets or not self._may_listen:
            return
        try:
            listener = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        except PermissionError:
            self._may_listen = False
            log.warning("bridge_listen_failed", why="a packet socket needs CAP_NET_RAW")
            return
        try:
            # The filter goes in before the bind: a socket of protocol 0 receives nothing until then.
            _attach(listener)
            listener.bind((bridge, _ETH_P_ALL))
        except OSError as error:
            listener.close()
            log.warning("bridge_listen_failed", bridge=bridge, why=str(error))
            return
        self._sockets[bridge] = listener
        self._read_on(bridge, listener)

    def _read_on(self, bridge: str, listener: socket.socket) -> None:
        if self._sockets.get(bridge) is listener:
            asyncio.get_running_loop().add_reader(listener, self._readable, bridge, listener)

    def _pause(self, bridge: str, listener: socket.socket, for_s: float) -> None:
        """Let a flood pass: for a moment nobody looks."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(listener)
        loop.call_later(for_s, self._read_on, bridge, listener)

    def _stop(self, bridge: str) -> None:
        listener = self._sockets.pop(bridge)
        asyncio.get_running_loop().remove_reader(listener)
        listener.close()

    def _readable(self, bridge: str, listener: socket.socket) -> None:
        # Bounds on the work done in one turn of the loop, and in all: a flood of ARP must not keep it from the
        # rest.
        now_s = asyncio.get_running_loop().time()
        begun_s, count = self._windows.get(bridge, (-1.0, 0))
        if now_s - begun_s >= _WINDOW_S:
            begun_s, count = now_s, 0
        if count >= _FRAMES_A_WINDOW:
            self._pause(bridge, listener, begun_s + _WINDOW_S - now_s)
            return
        self._windows[bridge] = (begun_s, count + _FRAMES_AT_ONCE)
        for _ in range(_FRAMES_AT_ONCE):
            try:
                frame = listener.recv(SNAP_LENGTH)
            except BlockingIOError:
                return
            except OSError as error:
                log.warning("bridge_lost", bridge=bridge, why=str(error))
                self._stop(bridge)
                return
            found = learn(frame)
            if found is not None:
                self._note(*found)

    def _note(self, mac: str, address: str) -> None:
        known = self._learned.get(mac, ())
        if known[-1:] == (address,):
            return
        kept = tuple(one for one in known if one != address)
        self._learned[mac] = (*kept, address)[-_ADDRESSES:]
        self._learned.move_to_end(mac)
        if len(self._learned) > _MACS:
            self._learned.popitem(last=False)
        for stream in list(self._streams):
            stream.post(mac)


def _attach(listener: socket.socket) -> None:
    program = b"".join(struct.pack("HBBI", *instruction) for instruction in BPF)
    buffer = ctypes.create_string_buffer(program, len(program))
    listener.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("HP", len(BPF), ctypes.addressof(buffer))
    )


class _Changes:
    """MACs with news, each once until it is fetched; so at most as many as are known."""

    def __init__(self) -> None:
        self._pending: dict[str, None] = {}
        self._arrived = asyncio.Event()
        self._closed = False

    def post(self, mac: str) -> None:
        if len(self._pending) < _MACS:
            self._pending[mac] = None
        self._arrived.set()

    def close(self) -> None:
        self._closed = True
        self._arrived.set()

    def __aiter__(self) -> _Changes:
        return self

    async def __anext__(self) -> str:
        while not self._closed:
            if self._pending:
                mac = next(iter(self._pending))
                del self._pending[mac]
                return mac
            self._arrived.clear()
            await self._arrived.wait()
        raise StopAsyncIteration
