"""The cluster's shutdown: it begins, is followed host by host, is replaced and cancelled; on both stores."""

from __future__ import annotations

import asyncio

import pytest
from commands_rig import HELLO, Rig, request
from msgspec.structs import replace

from metastack.commands.cluster.shutdown import (
    begin_shutdown,
    cancel_shutdown,
    check_shutdown,
    in_words,
    show_shutdown,
    wait_off,
)
from metastack.commands.cluster.status import cluster_view
from metastack.commands.node.views import node_infos
from metastack.commands.problem import Code, Problem
from metastack.commands.reading import EVERYTHING, read_world
from metastack.commands.vm.create import NewVm, create_vm
from metastack.core.model import HostReturn, NodeAlive
from metastack.core.state.codec import decode, encode
from metastack.core.transaction import Put

WHY = "work on the mains"


async def boots(rig: Rig, name: str, boot_id: str) -> int:
    """A living node of that boot whose agent heeds a shutdown."""
    session = await rig.node(name)
    entry = await rig.store.get(rig.keys.node_alive(name))
    assert entry is not None
    alive = replace(decode(NodeAlive, entry.value), pauses=True, boot_id=boot_id)
    await rig.write(Put(rig.keys.node_alive(name), encode(alive), leased=True), lease=entry.lease)
    return session


async def leaves(rig: Rig, name: str) -> None:
    """Its guests are off."""
    await rig.put(rig.keys.host_return(name), HostReturn(node=name, reason=WHY, ttl_s=600, vms=1))


@pytest.fixture
async def with_a_vm(rig: Rig) -> Rig:
    await rig.image()
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    await rig.claim("n1", await boots(rig, "n1", "first"))
    return rig


async def states(rig: Rig) -> dict[str, str]:
    return {host.name: host.state for host in (await show_shutdown(rig.cluster)).hosts}


async def test_it_follows_each_host(with_a_vm: Rig) -> None:
    rig = with_a_vm
    view = await begin_shutdown(rig.cluster, request(WHY), "30m")
    assert (view.on, view.reason, view.ttl_s) == (True, WHY, 1800)
    assert view.left_s is not None and 1790 <= view.left_s <= 1800
    assert await states(rig) == {"n1": "stopping"}
    await leaves(rig, "n1")
    assert await states(rig) == {"n1": "off"}
    await rig.lose("n1")
    assert await states(rig) == {"n1": "gone"}
    await boots(rig, "n1", "second")
    assert await states(rig) == {"n1": "back"}


async def test_a_wait_ends_when_all_guests_are_off(with_a_vm: Rig) -> None:
    rig, said, told = with_a_vm, asyncio.Event(), list[str]()

    def tell(what: str) -> None:
        told.append(what)
        said.set()

    await begin_shutdown(rig.cluster, request(WHY), "30m")
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(wait_off(rig.cluster, 10, tell))
        await said.wait()
        await leaves(rig, "n1")
    assert [host.state for host in waiting.result().hosts] == ["off"]
    assert told == ["guests stop on n1 (1 VMs)"]


async def test_a_wait_ends_at_its_timeout(with_a_vm: Rig) -> None:
    await begin_shutdown(with_a_vm.cluster, request(WHY), "30m")
    with pytest.raises(Problem) as late:
        await wait_off(with_a_vm.cluster, 0.1, lambda _: None)
    assert late.value.code is Code.TIMEOUT


async def test_a_second_one_replaces_the_first(with_a_vm: Rig) -> None:
    rig = with_a_vm
    await begin_shutdown(rig.cluster, request(WHY), "30m")
    first = await rig.store.get(rig.keys.cluster_shutdown())
    assert (await begin_shutdown(rig.cluster, request("longer"), "1h")).reason == "longer"
    assert first is not None and await rig.store.left_s(first.lease) == 0


async def test_it_is_cancelled_once(with_a_vm: Rig) -> None:
    rig = with_a_vm
    await begin_shutdown(rig.cluster, request(WHY), "30m")
    assert await cancel_shutdown(rig.cluster, request())
    assert not (await show_shutdown(rig.cluster)).on
    assert not await cancel_shutdown(rig.cluster, request())


async def test_an_older_agent_stands_in_its_way(rig: Rig) -> None:
    await rig.node("n1")
    with pytest.raises(Problem) as refused:
        await begin_shutdown(rig.cluster, request(WHY), "30m")
    assert refused.value.code is Code.CONFLICT and "n1" in refused.value.message


async def test_no_node_is_alive(rig: Rig) -> None:
    with pytest.raises(Problem, match="no node is alive"):
        await begin_shutdown(rig.cluster, request(WHY), "30m")


@pytest.mark.parametrize(("reason", "within"), [("", "30m"), (WHY, "soon"), (WHY, "5s"), (WHY, "8d")])
def test_a_bad_request_is_refused_at_once(reason: str, within: str) -> None:
    with pytest.raises(Problem):
        check_shutdown(reason, within)


async def test_views_say_that_the_host_is_expected(with_a_vm: Rig) -> None:
    rig = with_a_vm
    await begin_shutdown(rig.cluster, request(WHY), "30m")
    await leaves(rig, "n1")
    await rig.lose("n1")
    world = await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING))
    status = cluster_view(world)
    assert status.summary.startswith(in_words(await show_shutdown(rig.cluster)).split(", for")[0])
    node = node_infos(world)[0]
    assert (node.leaving, node.returns_within_s) == ("return", 600)
    assert "wait 600 s for its return" in (node.message or "")
    assert any("wait 600 s for its return" in problem for problem in status.problems)
