"""``fence``, ``node fence|unfence`` and ``doctor`` as a process, against a real etcd."""

from __future__ import annotations

import asyncio
import json

import pytest
from cli_program import DEADLINE_S, Program, finish
from commands_rig import Rig

from metastack.core.model import Fence, FenceReceipt
from metastack.core.protocol import fences
from metastack.core.protocol.guards import OwnSession
from metastack.core.state.cluster_state import seen
from metastack.core.transaction import Put

pytestmark = pytest.mark.etcd


async def lost(rig: Rig, name: str) -> None:
    await rig.node(name)
    await rig.lose(name)


async def test_a_node_is_removed(program: Program, rig: Rig) -> None:
    await lost(rig, "n1")
    await rig.node("n2")
    refused = await program("node", "remove", "n1", "--yes", "-o", "json")
    assert (refused.status, "not fenced" in refused.error()["message"]) == (4, True)
    receipt = FenceReceipt(at="t", by="n2", method="ceph-blocklist", addresses=("10.0.0.1",))
    await rig.put(rig.keys.fence("n1"), Fence(through=await rig.write(), receipt=receipt))
    assert (await program("node", "remove", "n1")).status == 2, "nobody can be asked"
    done = await program("node", "remove", "n1", "--yes")
    assert (done.status, done.out) == (0, "node n1 removed\n")
    assert "10.0.0.1" in done.err and "metastack node unfence n1 --reason" in done.err
    assert (await program("node", "list", "-o", "name")).out == "n2\n"
    assert (await program("status")).status == 0


async def test_a_manual_fence_shows_the_agents_receipt(program: Program, rig: Rig) -> None:
    await lost(rig, "n1")
    session = await rig.node("n2")
    unasked = await program("node", "fence", "n1", "--reason", "it burns")
    assert unasked.status == 2
    assert "--yes" in unasked.err
    assert (await program("node", "fence", "n1", "--yes")).status == 2, "a reason is needed"
    refused = await program("node", "fence", "n2", "--yes", "--reason", "why", "-o", "json")
    assert refused.status == 4
    assert "is alive" in refused.error()["message"]
    assert "cordon n2" in refused.error()["hint"]
    fence = ("node", "fence", "n1", "--yes", "--reason", "it burns")
    late = await program(*fence, "--timeout", "0.5", "-o", "json")
    assert late.status == 5
    assert "waits for n2" in late.error()["message"]
    assert (await program("node", "show", "n1", "-o", "json")).json()["fence"]["state"] == "open"
    process = await program.start(*fence)
    assert process.stderr is not None
    async with asyncio.timeout(DEADLINE_S):
        assert b"waits for n2" in await process.stderr.readline()
    me = OwnSession(node="n2", session=session, lease=0)
    entry = await rig.store.get(rig.keys.fence("n1"))
    assert entry is not None
    await rig.store.commit(fences.take_over_intent(rig.keys, me, "n1", seen(Fence, entry)))
    entry = await rig.store.get(rig.keys.fence("n1"))
    assert entry is not None
    receipt = FenceReceipt(
        at="2026-01-01T00:00:00Z", by="n2", method="ceph-blocklist", osd_epoch=42, verified="map"
    )
    await rig.store.commit(fences.done(rig.keys, "n1", seen(Fence, entry), receipt))
    done = await finish(process)
    assert done.status == 0, done
    view = (await program("fence", "show", "n1", "-o", "json")).json()
    assert (view["state"], view["by"], view["osd_epoch"]) == ("fenced", "n2", 42)
    assert "ceph-blocklist" in done.out
    assert (await program("fence", "list", "-o", "name")).out == "n1\n"
    assert "ceph-blocklist" in (await program("fence", "list")).out
    assert (await program("fence", "show", "n2")).status == 3
    lifted = await program("node", "unfence", "n1", "--yes", "--reason", "sold", "-o", "json")
    assert lifted.json()["state"] == "unblocked"


async def test_doctor_exits_by_what_it_finds(program: Program, rig: Rig) -> None:
    await rig.node("n1")
    answer = await program("doctor", "-o", "json")
    found = json.loads(answer.out)
    fields = {"check", "command", "deleted", "meaning", "name", "object", "severity"}
    assert found, "the node emulates, at least"
    assert all(set(finding) == fields for finding in found)
    assert {finding["severity"] for finding in found} <= {"warning", "info"}, found
    assert answer.status == 0
    assert answer.err == ""
    assert (await program("doctor", "--strict")).status == 1
    await rig.write(Put(rig.keys.fence("n1"), b"{"))
    broken = await program("doctor")
    assert broken.status == 1
    assert broken.out.startswith("error: "), broken.out
    assert rig.keys.fence("n1") in broken.out
    nobody = await program("doctor", "--endpoint", "http://127.0.0.1:1")
    assert nobody.status == 7
