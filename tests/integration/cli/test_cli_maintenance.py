"""``cluster maintenance`` as a process, against a real etcd, whose lease ends it."""

from __future__ import annotations

import asyncio

import pytest
from cli_program import Program
from commands_rig import Rig
from msgspec.structs import replace

from metastack.core.model import NodeAlive
from metastack.core.state.codec import decode, encode
from metastack.core.transaction import Put

pytestmark = pytest.mark.etcd
ON = ("cluster", "maintenance", "on", "--reason", "a switch is replaced")


async def heeds(rig: Rig, name: str) -> None:
    """A living node whose agent heeds a maintenance."""
    await rig.node(name)
    entry = await rig.store.get(rig.keys.node_alive(name))
    assert entry is not None
    alive = replace(decode(NodeAlive, entry.value), pauses=True)
    await rig.write(Put(rig.keys.node_alive(name), encode(alive), leased=True), lease=entry.lease)


async def test_it_begins_is_shown_and_ends(program: Program, rig: Rig) -> None:
    await heeds(rig, "n1")
    assert (await program("cluster", "maintenance", "on")).status == 2, "a reason is needed"
    assert (await program(*ON, "--for", "9d")).status == 2
    begun = await program(*ON, "--for", "2h")
    assert begun.status == 0, begun
    status = await program("status")
    assert status.status == 0
    first = status.out.splitlines()[0]
    assert first.startswith("maintenance for another 1 h 59 min (a switch is replaced, "), first
    shown = (await program("cluster", "maintenance", "-o", "json")).json()
    assert (shown["on"], shown["ttl_s"], shown["lost"]) == (True, 7200, [])
    assert (await program("cluster", "maintenance", "off")).status == 0
    assert (await program("status")).out.startswith("ok: ")
    events = (await program("events", "-o", "json")).out
    assert "on for 2 h" in events and "a switch is replaced" in events


async def test_etcd_ends_it_at_its_time(program: Program, rig: Rig) -> None:
    assert (await program(*ON, "--for", "10s")).status == 0
    entry = await rig.store.get(rig.keys.maintenance())
    assert entry is not None
    async with asyncio.timeout(30):
        async for batch in rig.store.watch(rig.keys.maintenance(), entry.mod_revision):
            if any(event.entry is None for event in batch.events):
                break
    assert not (await program("cluster", "maintenance", "-o", "json")).json()["on"]


async def test_an_older_agent_stands_in_its_way(program: Program, rig: Rig) -> None:
    await rig.node("n1")
    refused = await program(*ON, "-o", "json")
    assert (refused.status, "n1" in refused.error()["message"]) == (4, True)
