"""Who did what, when and why: a VM's versions, and the events of everything."""

from __future__ import annotations

import asyncio

import pytest
from commands_rig import HELLO, Rig, request

from metastack.commands.cluster import settings
from metastack.commands.cluster.events import (
    EventFilter,
    EventView,
    about,
    follow_events,
    list_events,
    since_ms,
)
from metastack.commands.node import change as nodes
from metastack.commands.problem import Code, Problem
from metastack.commands.vm import change as vms
from metastack.commands.vm.change import NewVm
from metastack.commands.vm.history import vm_history
from metastack.core.model import Event
from metastack.core.state.codec import encode
from metastack.core.transaction import Put

NOW_MS = 1_800_000_000_000


async def change_a_lot(rig: Rig) -> None:
    await rig.image()
    await rig.node("n1")
    await vms.create_vm(rig.cluster, request("ticket 1"), NewVm(vm=HELLO, image="tiny"))
    await vms.stop_vm(rig.cluster, request("new kernel"), HELLO)
    await vms.start_vm(rig.cluster, request(), HELLO)
    await vms.label_vm(rig.cluster, request(), HELLO, {"tier": "web"}, set())
    await vms.label_vm(rig.cluster, request(), HELLO, {}, {"tier"})
    await nodes.cordon_node(rig.cluster, request("new memory"), "n1")
    await settings.set_settings(rig.cluster, request("slow switch"), {"lease_ttl_s": 7})


async def test_history_lists_author_time_reason_and_change(rig: Rig) -> None:
    await change_a_lot(rig)
    found = await vm_history(rig.cluster, HELLO)
    assert [version.version for version in found] == [1, 2, 3, 4, 5]
    assert {version.by for version in found} == {"tester@here"}
    assert all(version.at for version in found)
    assert [version.reason for version in found[:3]] == ["ticket 1", "new kernel", None]
    assert found[0].changes == ["created: image tiny, 1 vCPU, 512 MiB, 37748736 bytes"]
    assert found[1].changes == ["power: on → off"]
    assert found[2].changes == ["power: off → on", "run: 1 → 2"]
    assert found[3].changes == ["label tier=web"]
    assert found[4].changes == ["label tier removed"]
    await rig.write(Put(rig.keys.history(HELLO, 3), b"{"))
    broken = await vm_history(rig.cluster, HELLO)
    assert [version.broken for version in broken] == [False, False, True, False, False]
    await vms.delete_vm(rig.cluster, request(), HELLO)
    with pytest.raises(Problem) as gone:
        await vm_history(rig.cluster, HELLO)
    assert gone.value.code is Code.NOT_FOUND


async def see(rig: Rig, object: str = "", since: int = 0) -> list[EventView]:
    _, found = await list_events(rig.cluster, EventFilter(object=object, since_ms=since), NOW_MS)
    return found


async def test_events_of_one_object_and_of_a_while(rig: Rig) -> None:
    await change_a_lot(rig)
    every = await see(rig)
    assert [view.what for view in every][:2] == ["vm.create", "vm.stop"]
    assert {view.object for view in every} == {"vm default/hello", "node n1", "config"}
    assert [view.reason for view in await see(rig, "node n1")] == ["new memory"]
    assert [view.reason for view in await see(rig, "config")] == ["slow switch"]
    assert len(await see(rig, "hello")) == 5
    assert await see(rig, "node hello") == []
    old = Event(at="2020-01-01T00:00:00Z", by="node/n1", what="vm.claimed", object="default/hello")
    await rig.write(Put(rig.keys.event(1_577_836_800_000, "x"), encode(old)))
    await rig.write(Put(rig.keys.event(1_577_836_800_001, "y"), b"{"))
    assert [view.broken for view in await see(rig)][:3] == [False, True, False]
    assert (await see(rig, "vm hello"))[0].by == "node/n1"
    assert len(await see(rig, "hello", since=1_577_836_800_001)) == 5


async def test_new_events_follow(rig: Rig) -> None:
    await change_a_lot(rig)
    revision, _ = await list_events(rig.cluster, EventFilter(), NOW_MS)
    await nodes.uncordon_node(rig.cluster, request("done"), "n1")
    async with asyncio.timeout(20):
        async for views in follow_events(rig.cluster, EventFilter(object="n1"), revision):
            assert [(view.what, view.reason) for view in views] == [("node.uncordon", "done")]
            break


@pytest.mark.parametrize(
    ("object", "wanted", "is_it"),
    [
        ("vm default/web", "web", True),
        ("vm default/web", "default/web", True),
        ("vm default/web", "vm web", True),
        ("vm p/web", "web", False),
        ("node web", "vm web", False),
        ("node web", "web", True),
        ("config", "config", True),
    ],
)
def test_what_an_event_is_about(object: str, wanted: str, is_it: bool) -> None:
    assert about(object, wanted) is is_it


def test_since() -> None:
    assert since_ms("", NOW_MS) == 0
    assert since_ms("90s", NOW_MS) == NOW_MS - 90_000
    assert since_ms("2d", NOW_MS) == NOW_MS - 172_800_000
    assert since_ms("2026-01-31T12:00:00Z", NOW_MS) == 1_769_860_800_000
    for text in ("yesterday", "1w", "-1h", "2026-01-31", "1e3s"):
        with pytest.raises(Problem) as bad:
            since_ms(text, NOW_MS)
        assert bad.value.code is Code.USAGE
