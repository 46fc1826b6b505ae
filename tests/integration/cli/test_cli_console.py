"""``vm console`` against an endpoint that speaks the agent's protocol, on a terminal and with pipes."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import sys
import termios
from collections.abc import AsyncIterator

import msgspec
import pytest
from cli_program import DEADLINE_S, Program, finish, read_terminal
from commands_rig import HELLO, Rig, request

from metastack.commands.vm.change import NewVm, create_vm, stop_vm
from metastack.commands.vm.console_tickets import create_ticket
from metastack.core.model import NodeAlive
from metastack.core.state.codec import decode, encode
from metastack.core.transaction import Delete, Put

pytestmark = pytest.mark.etcd


class Endpoint:
    """Consumes the ticket, greets, then plays a guest that shouts back; ``bye`` ends it."""

    def __init__(self, rig: Rig) -> None:
        self.rig = rig
        self.address = ""
        self.tickets: list[str] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        hello = json.loads(await reader.readline())
        assert hello["v"] == 1
        key = self.rig.keys.ticket(hello["ticket"])
        entry = await self.rig.store.get(key)
        if entry is None or len(self.tickets) > 5:
            writer.write(b'{"ok":false,"message":"no such ticket"}\n')
            writer.close()
            return
        self.tickets.append(hello["ticket"])
        await self.rig.write(Delete(key))
        writer.write(b'{"ok":true}\nlogin: ')
        while data := await reader.read(1024):
            writer.write(data.upper())
            await writer.drain()
            if b"bye" in data:
                break
        writer.close()


@pytest.fixture
async def endpoint(rig: Rig) -> AsyncIterator[Endpoint]:
    found = Endpoint(rig)
    server = await asyncio.start_server(found.serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        found.address = f"{host}:{port}"
        await rig.image()
        await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
        session = await rig.node("n1")
        await rig.claim("n1", session)
        await point(rig, found.address)
        yield found


async def point(rig: Rig, address: str) -> None:
    """The node publishes this console address."""
    key = rig.keys.node_alive("n1")
    entry = await rig.store.get(key)
    assert entry is not None
    alive = msgspec.structs.replace(decode(NodeAlive, entry.value), console=address)
    await rig.write(Put(key, encode(alive)))


async def test_with_pipes(program: Program, endpoint: Endpoint) -> None:
    process = await program.start("vm", "console", "hello", stdin=asyncio.subprocess.PIPE)
    answer = await finish(process, b"say bye\n")
    assert answer.status == 0, answer
    assert answer.out == "login: SAY BYE\n"
    assert len(endpoint.tickets) == 1
    assert await endpoint.rig.store.get(endpoint.rig.keys.ticket(endpoint.tickets[0])) is None


async def test_the_console_ends_with_stdin_unless_following(program: Program, endpoint: Endpoint) -> None:
    answer = await program("vm", "console", "hello", "--timeout", "30", "-o", "json")
    assert (answer.status, answer.out, answer.err) == (0, "login: ", "")
    followed = await program("vm", "console", "hello", "--follow", "--timeout", "4", "-o", "json")
    assert followed.status == 5
    assert followed.out == "login: "
    assert followed.error()["code"] == "timeout"


async def test_an_open_pipe_is_listened_to(program: Program, endpoint: Endpoint) -> None:
    process = await program.start("vm", "console", "hello", "--timeout", "4", stdin=asyncio.subprocess.PIPE)
    assert process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        said = await process.stdout.read()
        assert await process.wait() == 5, "the timeout ended it, not a silence"
    assert said == b"login: "


async def test_it_says_that_the_vm_stopped(program: Program, endpoint: Endpoint) -> None:
    process = await program.start("vm", "console", "hello", stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        await process.stdout.readexactly(len("login: "))
        await stop_vm(endpoint.rig.cluster, request(), HELLO)
        await endpoint.rig.release()
    answer = await finish(process, b"bye\n")
    assert answer.status == 0
    assert answer.err == "hello stopped\n"


async def test_over_ipv6(program: Program, endpoint: Endpoint) -> None:
    server = await asyncio.start_server(endpoint.serve, "::1", 0)
    async with server:
        await point(endpoint.rig, f"[::1]:{server.sockets[0].getsockname()[1]}")
        answer = await program("vm", "console", "hello", "--timeout", "30")
        assert (answer.status, answer.out) == (0, "login: ")


async def test_a_replaced_console_names_the_new_user(program: Program, endpoint: Endpoint) -> None:
    process = await program.start("vm", "console", "hello", stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None and process.stdout is not None
    async with asyncio.timeout(DEADLINE_S):
        await process.stdout.readexactly(len("login: "))
        await create_ticket(endpoint.rig.cluster, msgspec.structs.replace(request(), by="ada@desk"), HELLO)
    answer = await finish(process, b"bye\n")
    assert (answer.status, answer.err) == (0, "the console was closed: ada@desk took it over\n")


async def test_on_a_terminal(program: Program, endpoint: Endpoint) -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "metastack.cli.main", "vm", "console", "hello"),
        env={**program.env, "TERM": "xterm"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(DEADLINE_S):
            shown = await read_terminal(master, b"login: ")
            assert b"Ctrl-] leaves" in shown
            raw = termios.tcgetattr(slave)
            assert not raw[3] & (termios.ECHO | termios.ICANON | termios.ISIG), "raw: the guest echoes"
            os.write(master, b"abc\x03")
            await read_terminal(master, b"ABC\x03")
            os.write(master, b"\x1d")
            parting = await read_terminal(master, b"left the console")
            assert b"\\x0a" not in parting
            assert b"\nleft the console" in parting
            assert await process.wait() == 0
        assert termios.tcgetattr(slave) == before, "the terminal is as it was"
    finally:
        os.close(slave)
        os.close(master)


async def test_refusals(program: Program, rig: Rig, endpoint: Endpoint) -> None:
    endpoint.tickets += ["x"] * 6
    refused = await program("vm", "console", "hello", "-o", "json")
    assert refused.status == 4
    assert "no such ticket" in refused.error()["message"]
    await point(rig, "127.0.0.1:1")
    silent = await program("vm", "console", "hello", "-o", "json")
    assert silent.status == 1
    assert "127.0.0.1:1 (n1) does not answer" in silent.error()["message"]
    await rig.release()
    assert (await program("vm", "console", "hello")).status == 4
    assert (await program("vm", "console", "nobody")).status == 3
