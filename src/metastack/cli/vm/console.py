"""The serial console on this terminal.

Owns: the terminal's mode while the console is open. Refuses: libvirt; it talks to the agent's endpoint.
Rule: whatever happens, the terminal is as it was when this returns. Without a terminal the end of stdin is the
end, once the guest has been silent for a moment; ``--follow`` goes on listening.

Protocol: TCP; the client sends one JSON line ``{"v":1,"ticket":"ID"}``, the server answers one JSON line
``{"ok":true}`` or ``{"ok":false,"message":"..."}``, then bytes flow both ways.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Final

from metastack.commands.problem import Code, Problem, conflict
from metastack.commands.request import Cluster, new_request
from metastack.commands.vm.console_tickets import ConsoleEndpoint, create_ticket, opened_after

from ..frame import Frame
from ..session import context_of, inside_namespace, note, with_cluster
from .options import short_name

if TYPE_CHECKING:
    from metastack.core.model import VmId

LEAVE: Final = 0x1D
"""Ctrl-]."""
CONNECT_S: Final = 5.0
CHUNK: Final = 65_536
SILENCE_S: Final = 2.0
"""After the end of stdin: the guest's silence that ends the console, seconds."""
LINGER_S: Final = 10.0
"""After the end of stdin: how long a guest that is never silent is listened to, seconds."""
WHY_S: Final = 3.0
"""How long to look for the reason why the other side closed the console, seconds."""


def run_console(frame: Frame, vm: VmId, timeout_s: float, follow: bool) -> None:
    """Open it, splice it, close it."""
    netns = context_of(frame).netns

    async def work(cluster: Cluster) -> None:
        opened = False
        try:
            async with asyncio.timeout(timeout_s or None):
                with inside_namespace(netns):
                    pass  # who may not go there learns it before a ticket is made
                opening = await create_ticket(cluster, new_request(), vm)
                with inside_namespace(netns):
                    # A socket belongs to the namespace in which it was made.
                    plug = socket.socket(_family(opening), socket.SOCK_STREAM)
                reader, writer = await _connect(plug, opening, f"vm {vm}")
                opened = True
                closed = await _splice(frame, vm, reader, writer, follow)
        except TimeoutError:
            what = "console ended" if opened else "console did not open"
            raise Problem(Code.TIMEOUT, f"vm {vm}", f"{what} after {timeout_s:g} s") from None
        if closed:
            note(frame, await _why_closed(cluster, vm, opening) or "the console was closed")

    with_cluster(frame, work)


def _family(opening: ConsoleEndpoint) -> socket.AddressFamily:
    """IPv6 addresses stand in brackets."""
    return socket.AF_INET6 if opening.address.startswith("[") else socket.AF_INET


async def _connect(
    plug: socket.socket, opening: ConsoleEndpoint, object: str
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect and hand the ticket in."""
    host, _, port = opening.address.rpartition(":")
    plug.setblocking(False)
    try:
        async with asyncio.timeout(CONNECT_S):
            loop = asyncio.get_running_loop()
            await loop.sock_connect(plug, (host.strip("[]"), int(port)))
            reader, writer = await asyncio.open_connection(sock=plug, limit=CHUNK)
            writer.write(json.dumps({"v": 1, "ticket": opening.ticket}).encode() + b"\n")
            line = await reader.readline()
    except (OSError, ValueError, TimeoutError) as error:
        plug.close()
        why = str(error) or "no answer"
        raise Problem(
            Code.FAILED,
            object,
            f"its node's console endpoint {opening.address} ({opening.node}) does not answer: {why}",
            f"`metastack node show {opening.node}`",
        ) from None
    try:
        answer = json.loads(line)
        ok, message = bool(answer["ok"]), str(answer.get("message", ""))
    except (ValueError, TypeError, KeyError):
        ok, message = False, "the node sent an unknown answer"
    if not ok:
        writer.close()
        raise conflict(object, f"no console: {message}", "try again")
    return reader, writer


async def _splice(
    frame: Frame, vm: VmId, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, follow: bool
) -> bool:
    """Bytes both ways; True when the other side closed."""
    keyboard = sys.stdin.isatty()
    if keyboard:
        note(frame, f"console of {vm}; Ctrl-] leaves")
    left, heard = False, asyncio.Event()

    async def show() -> None:
        while data := await reader.read(CHUNK):
            heard.set()
            view = memoryview(data)
            while view:
                view = view[os.write(1, view) :]

    async def send() -> None:
        nonlocal left
        left = await _send(writer, keyboard)
        if not left and follow:
            return
        if not left:
            await _silence(heard)
            left = True
        showing.cancel()

    try:
        with _raw(keyboard):
            async with asyncio.TaskGroup() as group:
                # What the guest says ends it, or Ctrl-], or the end of stdin.
                showing = group.create_task(show())
                sending = group.create_task(send())
                showing.add_done_callback(lambda _: sending.cancel())
    except BaseExceptionGroup as errors:
        if errors.split(OSError)[1] is not None:
            raise
        raise Problem(
            Code.FAILED, f"vm {vm}", f"the console connection failed: {errors.exceptions[0]}"
        ) from None
    finally:
        writer.close()
        if keyboard:
            # The guest's cursor is anywhere: what follows begins a line.
            sys.stderr.write("\n")
    if keyboard and left:
        note(frame, "left the console")
    return not left


async def _silence(heard: asyncio.Event) -> None:
    """Wait until the guest is silent for a moment, but not for ever."""
    with suppress(TimeoutError):
        async with asyncio.timeout(LINGER_S):
            while True:
                heard.clear()
                async with asyncio.timeout(SILENCE_S):
                    await heard.wait()


async def _why_closed(cluster: Cluster, vm: VmId, opening: ConsoleEndpoint) -> str:
    """What became of a VM whose console closed; empty when it just runs on."""
    from metastack.commands.reading import follow, prefixes_of_vm
    from metastack.commands.vm.views import vm_view
    from metastack.core.model import Phase
    from metastack.core.state.keys import Kind

    if by := await opened_after(cluster, vm, opening):
        return f"the console was closed: {by} took it over"
    name = short_name(vm)
    wanted = [*cluster.keys.prefixes((Kind.NODE_ALIVE, Kind.FENCE)), *prefixes_of_vm(cluster.keys, vm)]
    seen = ""
    try:
        # The node may tell of it a moment later.
        async with asyncio.timeout(WHY_S), follow(cluster, wanted) as follower:
            while True:
                view = vm_view(follower.world, vm, lambda: None)
                if view is None or view.deleted:
                    return f"{name} deleted"
                if view.phase in (Phase.STOPPED, Phase.FAILED):
                    return f"{name} {view.phase}" + (f": {view.message}" if view.message else "")
                seen = "" if view.phase in (Phase.RUNNING, Phase.PAUSED) else f"{name} is {view.phase}"
                await follower.changed()
    except TimeoutError:
        return seen


async def _send(writer: asyncio.StreamWriter, keyboard: bool) -> bool:
    """Stdin to the guest; True when the person left, False at the end of stdin."""
    while data := await _read_stdin():
        if keyboard and LEAVE in data:
            writer.write(data[: data.index(LEAVE)])
            return True
        writer.write(data)
        await writer.drain()
    return False


async def _read_stdin() -> bytes:
    """The next bytes of stdin; regular files and /dev/null are always ready, and cannot be polled."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    try:
        loop.add_reader(0, wake)
    except PermissionError:
        return os.read(0, CHUNK)
    try:
        await ready
    finally:
        loop.remove_reader(0)
    return os.read(0, CHUNK)


@contextmanager
def _raw(keyboard: bool) -> Iterator[None]:
    """The terminal in raw mode."""
    if not keyboard:
        yield
        return
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, before)
