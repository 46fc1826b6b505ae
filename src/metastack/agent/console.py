"""The console endpoint: a ticket in, a serial console out.

Owns: one TCP listener on the address that the agent publishes.
Refuses: anyone without a ticket; a ticket is for one VM and one use, consumed by a guarded delete.
Protocol: the client sends one JSON line ``{"v":1,"ticket":"ID"}``, the server answers one JSON line
``{"ok":true}`` or ``{"ok":false,"message":"..."}``, then bytes flow both ways until either side closes.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Callable

import msgspec
import structlog

from ..core.change import Change, Committed, Delete, Guard
from ..core.codec import Unreadable, decode
from ..core.model import Ticket, VmId
from ..ports import ConsoleStream, Refused, Unavailable
from .node import Node

log = structlog.get_logger()

GREETING_TIMEOUT_S = 10.0
LISTEN_AGAIN_S = 2.0
MOST_LINE = 4096
MOST_CONSOLES = 64
TICKET_RE = re.compile(r"[A-Za-z0-9_-]{16,64}")


class _Hello(msgspec.Struct):
    ticket: str
    v: int = 1


class ConsoleServer:
    """Serves consoles of the VMs that this node answers for."""

    def __init__(
        self, node: Node, host: str, port: int, trouble: Callable[[str], None] = lambda why: None
    ) -> None:
        self._node, self._host, self._port = node, host, port
        self._trouble = trouble
        """Told why nobody can reach a console here; empty: they can."""
        self._open = 0

    async def run(self) -> None:
        """Listen for ever. An address that cannot be had costs consoles, never the agent: tried again."""
        server = await self._listen()
        async with server:
            log.info("console_listening", address=f"{self._host}:{self._port}")
            await server.serve_forever()

    async def _listen(self) -> asyncio.Server:
        said = ""
        while True:
            try:
                server = await asyncio.start_server(self._serve, self._host, self._port, limit=MOST_LINE)
            except OSError as error:
                why = error.strerror or str(error)
                if why != said:
                    log.error("console_unusable", address=f"{self._host}:{self._port}", error=why)
                said = why
                self._trouble(
                    f"no console can be opened here: {self._host}:{self._port}: {why} (setting console_listen)"
                )
                await asyncio.sleep(LISTEN_AGAIN_S)
                continue
            self._trouble("")
            return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._open >= MOST_CONSOLES:
            await self._refuse(writer, "too many consoles are open on this node")
            return
        self._open += 1
        _notice_death(writer)
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                vm, stream = await self._admit(await reader.readline())
            writer.write(b'{"ok":true}\n')
            await writer.drain()
        except (Refused, Unavailable) as error:
            await self._refuse(writer, str(error))
            return
        except (TimeoutError, OSError, ValueError):
            await self._refuse(writer, "the greeting was not understood in time")
            return
        finally:
            self._open -= 1
        self._open += 1
        log.info("console_opened", vm=str(vm), node=self._node.name)
        try:
            await splice(reader, writer, stream)
        finally:
            self._open -= 1
            await stream.close()
            writer.close()
            log.info("console_closed", vm=str(vm), node=self._node.name)

    async def _refuse(self, writer: asyncio.StreamWriter, message: str) -> None:
        try:
            writer.write(msgspec.json.encode({"ok": False, "message": message}) + b"\n")
            async with asyncio.timeout(2.0):
                await writer.drain()
        except (OSError, TimeoutError):
            pass
        finally:
            writer.close()

    async def _admit(self, line: bytes) -> tuple[VmId, ConsoleStream]:
        """Consume the ticket and open the console it is for."""
        node = self._node
        try:
            ident = msgspec.json.decode(line, type=_Hello).ticket
        except msgspec.MsgspecError:
            raise Refused("the greeting is not a ticket") from None
        if not TICKET_RE.fullmatch(ident):
            raise Refused("that is not a ticket")
        key = node.keys.ticket(ident)
        entry = await node.store.get(key)
        if entry is None:
            raise Refused("the ticket is unknown, used or older than 30 s: ask for a new one")
        # Safety: whoever deletes it has used it; a second client finds the revision gone.
        used = await node.store.commit(
            Change(name="use_ticket", guards=(Guard(key, "mod", entry.mod_revision),), effects=(Delete(key),))
        )
        if not isinstance(used, Committed):
            raise Refused("the ticket was used a moment ago")
        try:
            ticket = decode(Ticket, entry.value, key)
        except Unreadable as error:
            raise Refused(str(error)) from None
        vm = VmId(ticket.project, ticket.vm)
        claim = node.world.claim(vm)
        mine = claim is not None and claim.record is not None and claim.record.node == node.name
        if ticket.node != node.name or not mine or claim is None or claim.ok.uuid != ticket.uuid:
            raise Refused(f"{vm} is not on {node.name} any more: ask for a new ticket")
        return vm, await node.hypervisor.console(ticket.uuid)


def _notice_death(writer: asyncio.StreamWriter) -> None:
    """Let the kernel ask a silent client whether it lives: one that vanished would keep its place for ever."""
    connection = writer.get_extra_info("socket")
    for level, option, value in (
        (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 60),
        (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 15),
        (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 4),
    ):
        connection.setsockopt(level, option, value)


async def splice(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, stream: ConsoleStream) -> None:
    """Bytes both ways until either side ends."""

    async def to_guest() -> None:
        while data := await reader.read(4096):
            await stream.write(data)

    async def to_client() -> None:
        while data := await stream.read():
            writer.write(data)
            await writer.drain()

    async with asyncio.TaskGroup() as group:
        ways = {group.create_task(_quiet(to_guest())), group.create_task(_quiet(to_client()))}
        _, rest = await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in rest:
            way.cancel()


async def _quiet(way: object) -> None:
    """A connection that breaks is the end of a console, not an error of the agent."""
    try:
        await way  # type: ignore[misc]
    except (OSError, Refused, Unavailable):
        pass
