"""Maintenance: it begins, is shown, is replaced and ends; an older agent stands in its way; on both stores."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from commands_rig import HELLO, Rig, request
from msgspec.structs import replace

from metastack.commands.cluster.maintenance import (
    MaintenanceView,
    begin_maintenance,
    check_maintenance,
    end_maintenance,
    in_words,
    show_maintenance,
)
from metastack.commands.cluster.status import ClusterView, cluster_view
from metastack.commands.doctor import examine
from metastack.commands.doctor.facts import collect
from metastack.commands.problem import Code, Problem
from metastack.commands.reading import EVERYTHING, read_world
from metastack.commands.spans import span_words
from metastack.commands.vm.create import NewVm, create_vm
from metastack.core.model import Fence, NodeAlive
from metastack.core.state.codec import decode, encode
from metastack.core.transaction import Delete, Put

WHY = "the switch is replaced"


async def status_of(rig: Rig, left_s: int | None = None) -> ClusterView:
    return cluster_view(await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING)), (), left_s)


async def found(rig: Rig) -> list[tuple[str, str]]:
    facts = await collect(rig.cluster, "", datetime.now(UTC))
    return [(f.severity.value, f.object) for f in examine(facts) if f.check == "maintenance"]


async def heeds(rig: Rig, name: str) -> int:
    """A living node whose agent heeds a maintenance."""
    session = await rig.node(name)
    entry = await rig.store.get(rig.keys.node_alive(name))
    assert entry is not None
    alive = replace(decode(NodeAlive, entry.value), pauses=True)
    await rig.write(Put(rig.keys.node_alive(name), encode(alive), leased=True), lease=entry.lease)
    return session


async def test_it_begins_and_its_lease_is_its_time(rig: Rig) -> None:
    await heeds(rig, "n1")
    view = await begin_maintenance(rig.cluster, request(WHY), "2h")
    assert (view.on, view.reason, view.ttl_s, view.heedless, view.lost) == (True, WHY, 7200, [], [])
    assert view.left_s is not None and 7190 <= view.left_s <= 7200
    entry = await rig.store.get(rig.keys.maintenance())
    assert entry is not None and entry.lease
    assert await found(rig) == [("warning", "cluster")]


async def test_the_first_line_of_status_says_so(rig: Rig) -> None:
    await heeds(rig, "n1")
    await begin_maintenance(rig.cluster, request(WHY), "2h")
    status = await status_of(rig, 6600)
    assert status.ok
    assert status.summary.startswith(f"maintenance for another 1 h 50 min ({WHY}, ")
    assert status.summary.endswith("ok: 1 of 1 nodes ready, 0 of 0 VMs running")
    assert status.maintenance.on


async def test_a_lost_node_and_its_vm_say_why(rig: Rig) -> None:
    await rig.image()
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    session = await heeds(rig, "n1")
    await rig.claim("n1", session, phase=None)
    await heeds(rig, "n2")
    await begin_maintenance(rig.cluster, request(WHY), "2h")
    await rig.lose("n1")
    status = await status_of(rig, 60)
    assert status.maintenance.lost == ["n1"]
    assert any("the maintenance delays its fence" in problem for problem in status.problems)
    assert await found(rig) == [("error", "cluster")]
    await rig.put(rig.keys.fence("n1"), Fence(through=session + 100))
    assert any("is taken over when that ends" in problem for problem in (await status_of(rig, 60)).problems)
    await rig.write(Delete(rig.keys.fence("n1")))
    view = await end_maintenance(rig.cluster, request())
    assert view is not None and not view.on and view.lost == ["n1"]


async def test_a_second_one_replaces_the_first(rig: Rig) -> None:
    await begin_maintenance(rig.cluster, request(WHY), "2h")
    first = await rig.store.get(rig.keys.maintenance())
    view = await begin_maintenance(rig.cluster, request("longer"), "1d")
    assert (view.reason, view.ttl_s) == ("longer", 86_400)
    assert first is not None and await rig.store.left_s(first.lease) == 0


async def test_it_ends_once(rig: Rig) -> None:
    await begin_maintenance(rig.cluster, request(WHY), "2h")
    assert await end_maintenance(rig.cluster, request()) is not None
    assert not (await show_maintenance(rig.cluster)).on
    assert await end_maintenance(rig.cluster, request()) is None
    assert await found(rig) == []
    assert not (await status_of(rig)).summary.startswith("maintenance")


async def test_an_older_agent_stands_in_its_way(rig: Rig) -> None:
    await rig.node("n1")
    with pytest.raises(Problem) as refused:
        await begin_maintenance(rig.cluster, request(WHY), "2h")
    assert refused.value.code is Code.CONFLICT
    assert "n1" in refused.value.message
    assert not (await show_maintenance(rig.cluster)).on


async def test_an_older_agent_that_comes_later_is_told(rig: Rig) -> None:
    await begin_maintenance(rig.cluster, request(WHY), "2h")
    await rig.node("n1")
    assert (await show_maintenance(rig.cluster)).heedless == ["n1"]
    assert not (await status_of(rig, 60)).ok
    assert ("error", "node n1") in await found(rig)


async def test_an_unreadable_record_holds_until_it_is_ended(rig: Rig) -> None:
    await rig.write(Put(rig.keys.maintenance(), b'{"v":9}'))
    view = await show_maintenance(rig.cluster)
    assert (view.on, view.broken, view.left_s) == (True, True, None)
    assert "until a person ends it" in in_words(view)
    assert ("warning", "cluster") in await found(rig)
    assert await end_maintenance(rig.cluster, request()) is not None


@pytest.mark.parametrize(("text", "seconds"), [("10s", 10), ("30m", 1800), ("2h", 7200), ("7d", 604_800)])
def test_times(text: str, seconds: int) -> None:
    assert check_maintenance(WHY, text) == seconds


@pytest.mark.parametrize("text", ["", "9s", "8d", "2", "2 h", "-1h", "h", "1.5h", "999999d"])
def test_bad_times(text: str) -> None:
    with pytest.raises(Problem):
        check_maintenance(WHY, text)


def test_it_needs_a_reason() -> None:
    with pytest.raises(Problem):
        check_maintenance("", "1h")


def test_words() -> None:
    assert [span_words(s) for s in (0, 119, 120, 3600, 6600, 90_000)] == [
        *("0 s", "119 s", "2 min", "1 h", "1 h 50 min", "1 d 1 h"),
    ]
    assert in_words(MaintenanceView(on=False)) == ""
