"""The console server: a client sends a ticket and gets a guest's serial console.

Owns: one TCP listener, and where it says that it listens.
Refuses: anyone without a ticket; a ticket is for one VM and one use, consumed by a guarded delete.
Rule: who has shown no ticket stands in the door (:mod:`.console_places`) and takes no place of those who have.
Protocol: the client sends one JSON line ``{"v":1,"ticket":"ID"}``, the server answers one JSON line
``{"ok":true}`` or ``{"ok":false,"message":"..."}``, then bytes flow both ways until either side closes.
"""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable

import msgspec
import structlog

from ...core.model import Ticket, VmId
from ...core.state.codec import Unreadable, decode
from ...core.transaction import Committed, Delete, Entry, Guard, Transaction
from ...ports import ConsoleStream, Refused, Unavailable
from ..context import AgentContext
from ..report.addresses import NodeAddresses, listening_socket, with_port
from .console_places import ConsolePlaces, Visitor, origin_of

log = structlog.get_logger()

GREETING_TIMEOUT_S = 10.0
LISTEN_AGAIN_S = 2.0
MOST_LINE = 4096
MOST_CONSOLES = 64
"""Open at one time, all of them ticket holders'."""
LOOK_AGAIN_S = 60.0
"""How often it is asked whether this node is reached elsewhere now."""
TICKET_RE = re.compile(r"[A-Za-z0-9_-]{16,64}")
HASH_RE = re.compile(r"[0-9a-f]{64}")


class _Hello(msgspec.Struct):
    ticket: str
    v: int = 1


class ConsoleServer:
    """Serves consoles of the VMs that this node owns."""

    def __init__(
        self,
        node: AgentContext,
        where: Callable[[], Awaitable[NodeAddresses]],
        trouble: Callable[[str], None] = lambda why: None,
        reached: Callable[[NodeAddresses], None] = lambda where: None,
    ) -> None:
        """``where``: asked at the start and now and then. ``reached``: told what to publish."""
        self._node, self._where, self._reached = node, where, reached
        self._trouble = trouble
        """Told why nobody can reach a console here; empty: they can."""
        self._unproven_connections = ConsolePlaces()
        self._open = 0

    async def run(self) -> None:
        """Listen for ever. An address that cannot be had costs consoles, never the agent: tried again."""
        while True:
            server, where = await self._listen()
            try:
                log.info("console_listening", address=with_port(*where.listen), published=where.console)
                await self._moved(where)
            finally:
                # Consoles that are open stay so.
                server.close()

    async def _moved(self, where: NodeAddresses) -> None:
        """Return when this node is reached elsewhere: addresses change, and no event tells of it."""
        while True:
            await asyncio.sleep(LOOK_AGAIN_S)
            if await self._where() != where:
                return

    async def _listen(self) -> tuple[asyncio.Server, NodeAddresses]:
        said = ""
        while True:
            where = await self._where()
            # What is published does not hang on the console: peers and people read the address too.
            self._reached(where)
            try:
                plug = listening_socket(*where.listen)
                server = await asyncio.start_server(self._serve, sock=plug, limit=MOST_LINE)
            except OSError as error:
                why, at = error.strerror or str(error), with_port(*where.listen)
                if why != said:
                    log.error("console_unusable", address=at, error=why)
                said = why
                self._trouble(f"no console can be opened here: {at}: {why} (setting console_listen)")
                await asyncio.sleep(LISTEN_AGAIN_S)
                continue
            self._trouble("")
            return server, where

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        visitor = Visitor(origin_of(writer.get_extra_info("peername")), writer.close)
        if not self._unproven_connections.admit(visitor):
            await self._refuse(writer, "too many connections are opening: try again")
            return
        _notice_death(writer)
        try:
            async with asyncio.timeout(GREETING_TIMEOUT_S):
                line = await reader.readline()
                visitor.silent = False
                vm, stream = await self._admit(line)
            writer.write(b'{"ok":true}\n')
            await writer.drain()
        except (Refused, Unavailable) as error:
            await self._refuse(writer, str(error))
            return
        except (TimeoutError, OSError, ValueError):
            await self._refuse(writer, "the greeting was not understood in time")
            return
        finally:
            self._unproven_connections.leave(visitor)
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

    async def _find(self, ident: str) -> Entry:
        """The record of a ticket, which lies under its hash. Raises Refused.

        An older command line wrote the ticket itself as the key. A key that is a hash is never taken for one:
        who may read etcd would read tickets there.
        """
        node = self._node
        entry = await node.store.get(node.keys.ticket(ident))
        if entry is None and not HASH_RE.fullmatch(ident):
            entry = await node.store.get(node.keys.ticket_as_told(ident))
        if entry is None:
            raise Refused("the ticket is unknown, used or older than 30 s: ask for a new one")
        return entry

    async def _admit(self, line: bytes) -> tuple[VmId, ConsoleStream]:
        """Consume the ticket and open the console it is for."""
        node = self._node
        try:
            ident = msgspec.json.decode(line, type=_Hello).ticket
        except msgspec.MsgspecError:
            raise Refused("the greeting is not a ticket") from None
        if not TICKET_RE.fullmatch(ident):
            raise Refused("that is not a ticket")
        if self._open >= MOST_CONSOLES:
            raise Refused("too many consoles are open on this node")
        entry = await self._find(ident)
        key = entry.key
        # Safety: whoever deletes it has used it; a second client finds the revision gone.
        used = await node.store.commit(
            Transaction(
                name="use_ticket", guards=(Guard(key, "mod", entry.mod_revision),), effects=(Delete(key),)
            )
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
            raise Refused(f"{vm} is not on {node.name} now: ask for a new ticket")
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
