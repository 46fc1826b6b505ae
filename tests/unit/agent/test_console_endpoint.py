"""The console endpoint: who gets in, and who does not."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
from agent_rig import KEYS, Lab, lab_of

from metastack.agent.agent import Agent
from metastack.agent.report.addresses import NodeAddresses
from metastack.agent.upkeep.console import ConsoleServer
from metastack.agent.upkeep.console_places import MOST_OF_ONE, MOST_WAITING, ConsolePlaces, Visitor, origin_of
from metastack.core.model import NodeAlive, Ticket
from metastack.core.state.codec import decode, encode


def _server(agent: Agent, port: int, host: str = "127.0.0.1", address: str = "127.0.0.1") -> ConsoleServer:
    async def where() -> NodeAddresses:
        return NodeAddresses(address=address, listen=(host, port))

    return ConsoleServer(agent.node, where, agent.console_trouble, agent.reached)


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


async def _greet(
    port: int, line: bytes
) -> tuple[dict[str, object], asyncio.StreamReader, asyncio.StreamWriter]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(line)
    async with asyncio.timeout(15):
        answer = await reader.readline()
    return json.loads(answer), reader, writer


async def _until_listening(port: int) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            writer.close()
            return


async def test_one_ticket_opens_one_console_once(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        spec = await lab.want("hello")
        await lab.until("running", lambda: b'"running"' in (lab.entry(KEYS.vm_status(spec.id)) or b""))
        port = _free_port()
        agent = lab.hosts["n1"].agent
        server = lab.group.create_task(_server(agent, port).run())
        await _until_listening(port)

        async def ticket(ident: str, **more: str) -> bytes:
            fields = {"project": "default", "vm": "hello", "uuid": spec.uuid, "node": "n1"} | more
            await lab.put(KEYS.ticket(ident), encode(Ticket(**fields)))
            return json.dumps({"v": 1, "ticket": ident}).encode() + b"\n"

        good = await ticket("ticket-of-sixteen-1")
        answer, reader, writer = await _greet(port, good)
        assert answer == {"ok": True}
        writer.write(b"echo me\n")
        async with asyncio.timeout(5):
            assert b"echo me" in await reader.read(100)
        writer.close()
        refused = [
            (good, "unknown, used"),
            (b'{"v":1,"ticket":"ticket-that-never-was"}\n', "unknown, used"),
            (b'{"v":1,"ticket":"../../config/cluster"}\n', "not a ticket"),
            (b"GET / HTTP/1.0\n", "not a ticket"),
            (await ticket("ticket-of-sixteen-2", node="n2"), "not on n1 now"),
            (await ticket("ticket-of-sixteen-3", uuid="of-another-vm"), "not on n1 now"),
            (await ticket("ticket-of-sixteen-4", vm="other"), "not on n1 now"),
        ]
        for line, why in refused:
            answer, _, writer = await _greet(port, line)
            assert answer["ok"] is False
            assert why in str(answer["message"]), line
            writer.close()
        assert lab.entry(KEYS.ticket("ticket-of-sixteen-2")) is None, "a misused ticket is used up too"
        server.cancel()


async def _running(lab: Lab) -> str:
    """A VM that runs; its UUID."""
    spec = await lab.want("hello")
    await lab.until("running", lambda: b'"running"' in (lab.entry(KEYS.vm_status(spec.id)) or b""))
    return spec.uuid


async def test_strangers_keep_no_ticket_holder_out(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        uuid, port = await _running(lab), _free_port()
        server = lab.group.create_task(_server(lab.hosts["n1"].agent, port).run())
        await _until_listening(port)
        strangers = [await asyncio.open_connection("127.0.0.1", port) for _ in range(80)]
        ticket = Ticket(project="default", vm="hello", uuid=uuid, node="n1")
        await lab.put(KEYS.ticket("ticket-of-sixteen-1"), encode(ticket))
        answer, _, writer = await _greet(port, b'{"v":1,"ticket":"ticket-of-sixteen-1"}\n')
        assert answer == {"ok": True}
        async with asyncio.timeout(5):
            for reader, _ in strangers[:-8]:
                assert await reader.read() == b"", "who says nothing makes way, of the same address first"
        for _, other in [*strangers, (None, writer)]:
            other.close()
        server.cancel()


def test_places_in_the_door() -> None:
    door, gone = ConsolePlaces(), []

    def come(origin: str, silent: bool = True) -> tuple[Visitor, bool]:
        visitor = Visitor(origin, lambda: gone.append(visitor), silent)
        return visitor, door.admit(visitor)

    first, _ = come("a")
    for _ in range(MOST_OF_ONE - 1):
        come("a", silent=False)
    assert (come("b")[1], gone) == (True, [])
    assert (come("a", silent=False)[1], gone) == (True, [first])
    assert not come("a")[1], "all of them are being looked up"
    while len(gone) < 2:
        come(f"c{len(gone)}")
        for number in range(MOST_WAITING):
            come(f"d{number}")
    assert [visitor.origin for visitor in gone[1:2]] == ["b"], "the oldest silent one"
    assert origin_of(("::ffff:10.0.0.1", 1, 0, 0)) == "10.0.0.1"
    assert origin_of(("fd00::1:2:3:4", 1, 0, 0)) == origin_of(("fd00::9", 2, 0, 0))
    assert origin_of(("10.0.0.1", 1)) != origin_of(("10.0.0.2", 1))


async def test_ipv6_and_every_address_of_the_host(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        uuid, port = await _running(lab), _free_port()
        agent = lab.hosts["n1"].agent
        assert agent is not None
        server = lab.group.create_task(_server(agent, port, host="::", address="fd00::7").run())
        await _until_listening(port)
        await lab.until("published", lambda: _alive(lab).console == f"[fd00::7]:{port}", 10)
        assert _alive(lab).address == "fd00::7"
        ticket = Ticket(project="default", vm="hello", uuid=uuid, node="n1")
        await lab.put(KEYS.ticket("ticket-of-sixteen-1"), encode(ticket))
        reader, writer = await asyncio.open_connection("::1", port)
        writer.write(b'{"v":1,"ticket":"ticket-of-sixteen-1"}\n')
        async with asyncio.timeout(15):
            assert json.loads(await reader.readline()) == {"ok": True}
        writer.close()
        server.cancel()


async def test_a_ticket_cannot_be_read_from_etcd(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        uuid, port = await _running(lab), _free_port()
        server = lab.group.create_task(_server(lab.hosts["n1"].agent, port).run())
        await _until_listening(port)
        ticket, key = (
            Ticket(project="default", vm="hello", uuid=uuid, node="n1"),
            KEYS.ticket("ticket-of-16-bytes"),
        )
        assert "ticket-of-16-bytes" not in key
        await lab.put(key, encode(ticket))
        told = key.rpartition("/")[2]
        answer, _, writer = await _greet(port, json.dumps({"v": 1, "ticket": told}).encode() + b"\n")
        assert answer["ok"] is False
        writer.close()
        await lab.put(KEYS.ticket_as_told("ticket-of-before-1"), encode(ticket))
        answer, _, writer = await _greet(port, b'{"v":1,"ticket":"ticket-of-before-1"}\n')
        assert answer == {"ok": True}, "of an older command line"
        writer.close()
        server.cancel()


async def test_two_at_once_with_one_ticket(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        spec = await lab.want("hello")
        await lab.until("running", lambda: b'"running"' in (lab.entry(KEYS.vm_status(spec.id)) or b""))
        port = _free_port()
        server = lab.group.create_task(_server(lab.hosts["n1"].agent, port).run())
        await _until_listening(port)
        ticket = Ticket(project="default", vm="hello", uuid=spec.uuid, node="n1")
        await lab.put(KEYS.ticket("ticket-of-sixteen-9"), encode(ticket))
        line = b'{"v":1,"ticket":"ticket-of-sixteen-9"}\n'
        answers = await asyncio.gather(*(_greet(port, line) for _ in range(8)))
        assert sorted(bool(answer["ok"]) for answer, _, _ in answers) == [False] * 7 + [True]
        for _, _, writer in answers:
            writer.close()
        server.cancel()


async def test_a_port_in_use_is_said_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("metastack.agent.upkeep.console.LISTEN_AGAIN_S", 0.02)
    async with lab_of(tmp_path, nodes=1) as lab:
        agent = lab.hosts["n1"].agent
        assert agent is not None
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = int(other.getsockname()[1])
            server = asyncio.create_task(_server(agent, port).run())
            await lab.until("said", lambda: f"127.0.0.1:{port}" in str(_warnings(lab)), 10)
            assert not server.done(), "the agent would end with it, and its guests lose their node"
        await _until_listening(port)
        await lab.until("taken back", lambda: not _warnings(lab), 10)
        server.cancel()
        await asyncio.wait([server])


def _alive(lab: Lab) -> NodeAlive:
    return decode(NodeAlive, lab.entry(KEYS.node_alive("n1")) or b"")


def _warnings(lab: Lab) -> tuple[str, ...]:
    return _alive(lab).warnings
