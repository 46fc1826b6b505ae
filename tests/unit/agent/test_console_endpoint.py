"""The console endpoint: who gets in, and who does not."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

import pytest
from agent_rig import KEYS, Lab, lab_of

from metastack.agent.console import ConsoleServer
from metastack.core.codec import decode, encode
from metastack.core.model import NodeAlive, Ticket


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
        server = lab.group.create_task(ConsoleServer(agent.node, "127.0.0.1", port).run())
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
            (await ticket("ticket-of-sixteen-2", node="n2"), "not on n1 any more"),
            (await ticket("ticket-of-sixteen-3", uuid="of-another-vm"), "not on n1 any more"),
            (await ticket("ticket-of-sixteen-4", vm="other"), "not on n1 any more"),
        ]
        for line, why in refused:
            answer, _, writer = await _greet(port, line)
            assert answer["ok"] is False
            assert why in str(answer["message"]), line
            writer.close()
        assert lab.entry(KEYS.ticket("ticket-of-sixteen-2")) is None, "a misused ticket is used up too"
        server.cancel()


async def test_two_at_once_with_one_ticket(tmp_path: Path) -> None:
    async with lab_of(tmp_path, nodes=1) as lab:
        spec = await lab.want("hello")
        await lab.until("running", lambda: b'"running"' in (lab.entry(KEYS.vm_status(spec.id)) or b""))
        port = _free_port()
        server = lab.group.create_task(ConsoleServer(lab.hosts["n1"].agent.node, "127.0.0.1", port).run())
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
    monkeypatch.setattr("metastack.agent.console.LISTEN_AGAIN_S", 0.02)
    async with lab_of(tmp_path, nodes=1) as lab:
        agent = lab.hosts["n1"].agent
        assert agent is not None
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            port = int(other.getsockname()[1])
            server = asyncio.create_task(
                ConsoleServer(agent.node, "127.0.0.1", port, agent.console_trouble).run()
            )
            await lab.until("said", lambda: f"127.0.0.1:{port}" in str(_warnings(lab)), 10)
            assert not server.done(), "the agent would end with it, and its guests lose their node"
        await _until_listening(port)
        await lab.until("taken back", lambda: not _warnings(lab), 10)
        server.cancel()
        await asyncio.wait([server])


def _warnings(lab: Lab) -> tuple[str, ...]:
    return decode(NodeAlive, lab.entry(KEYS.node_alive("n1")) or b"").warnings
