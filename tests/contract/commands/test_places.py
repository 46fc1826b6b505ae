"""Where VMs may run and do: demands, place, move, taints, drains; on both stores."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from commands_rig import HELLO, Racing, Rig, request
from msgspec.structs import replace
from places_rig import new, refused, taint, three, vm

from metastack.commands.node import change as nodes
from metastack.commands.node import drain as drains
from metastack.commands.problem import Code, Problem
from metastack.commands.request import Cluster
from metastack.commands.vm import change as vms
from metastack.commands.vm import place as places
from metastack.commands.vm.create import create_vm, create_vms
from metastack.commands.vm.explain import explain_vm
from metastack.commands.vm.history import vm_history
from metastack.commands.vm.placement_options import PlacementOptions
from metastack.commands.vm.wait import Goal, wait_vm
from metastack.core.model import (
    Effect,
    Fence,
    GroupTerm,
    Ha,
    Maintenance,
    NodeSpec,
    PinMove,
    Placement,
    Taint,
    Toleration,
)
from metastack.core.protocol.rule_versions import of_labels
from metastack.core.state.codec import decode
from metastack.core.state.keys import Kind


async def test_demands_are_written_and_strangers_refused(rig: Rig) -> None:
    await three(rig)
    place = Placement(node_selector={"zone": "a"}, tolerations=(Toleration(key="x"),))
    made = await create_vm(
        rig.cluster, request(), new(placement=place, ha=Ha(priority=7), resources={"gpu": 1}, node="n1")
    )
    spec = await rig.spec()
    assert spec == made.spec
    assert spec.placement == replace(place, node="n1")
    assert (spec.ha.priority, spec.resources) == (7, {"gpu": 1})
    await refused(
        create_vm(rig.cluster, request(), new("b", placement=Placement(node="n9"))), Code.NOT_FOUND, "node n9"
    )
    await refused(
        create_vm(rig.cluster, request(), new("b", ha=Ha(start_after=("ghost",)))),
        Code.NOT_FOUND, "vm default/ghost", "--start-after names it",
    )  # fmt: skip
    await refused(
        create_vm(rig.cluster, request(), new("b", ha=Ha(start_after=("b",)))), Code.CONFLICT, "b after b"
    )


async def test_a_ready_port_needs_a_network_also_later(rig: Rig) -> None:
    await three(rig)
    await create_vm(rig.cluster, request(), new("deaf", network="none"))
    before = await rig.spec(vm("deaf"))
    asked = places.place_vm(rig.cluster, request(), vm("deaf"), PlacementOptions(ready_port=80))
    await refused(asked, Code.USAGE, "80 never answers without a network")
    assert await rig.spec(vm("deaf")) == before
    await places.place_vm(rig.cluster, request(), vm("deaf"), PlacementOptions(priority=3))
    plain = create_vm(rig.cluster, request(), new("plain", ha=Ha(ready_port=80)))
    await refused(plain, Code.USAGE, "80 never answers without a network")  # there is no default network
    await create_vm(rig.cluster, request(), new("well", network="br0"))
    await places.place_vm(rig.cluster, request(), vm("well"), PlacementOptions(ready_port=80))
    assert (await rig.spec(vm("well"))).ha.ready_port == 80


async def test_a_circle_of_starts_is_refused_with_its_way(rig: Rig) -> None:
    await three(rig)
    for name, after in (("a", ()), ("b", ("a",)), ("c", ("b",))):
        await create_vm(rig.cluster, request(), new(name, ha=Ha(start_after=after)))
    await refused(
        places.place_vm(rig.cluster, request(), vm("a"), PlacementOptions(start_after=["c"])),
        Code.CONFLICT, "a after c after b after a",
    )  # fmt: skip
    await vms.delete_vm(rig.cluster, request(), vm("a"))
    await refused(
        create_vm(rig.cluster, request(), new("a", ha=Ha(start_after=("c",)))), Code.CONFLICT, "after itself"
    )


async def test_place_changes_what_is_said_and_leaves_the_guest(rig: Rig) -> None:
    sessions = await three(rig)
    await create_vm(rig.cluster, request(), new(placement=Placement(arch="x86_64")))
    await places.place_vm(rig.cluster, request(), HELLO, PlacementOptions(arch=""))
    await rig.claim("n1", sessions["n1"])
    placed = await places.place_vm(
        rig.cluster, request("because"), HELLO, PlacementOptions(node_selector=["zone=b"], priority=3)
    )
    assert placed.changed
    assert placed.remark == (
        "it stays on n1; the change takes effect when it is placed again"
        " (n1 no longer fits: needs label zone=b, the node has zone=a)"
    )
    spec = await rig.spec()
    assert (spec.placement, spec.ha) == (Placement(node_selector={"zone": "b"}), Ha(priority=3))
    assert [spec.reason for spec in await rig.history()][-1] == "because"
    changes = [version.changes for version in await vm_history(rig.cluster, HELLO)]
    assert changes[1:] == [["no longer --arch x86_64"], ["--node-selector zone=b", "--priority 3"]]
    assert not (await places.place_vm(rig.cluster, request(), HELLO, PlacementOptions(priority=3))).changed
    await refused(
        places.place_vm(rig.cluster, request(), HELLO, PlacementOptions()), Code.USAGE, "no option is given"
    )
    await refused(
        places.place_vm(rig.cluster, request(), HELLO, PlacementOptions(node="n9")), Code.NOT_FOUND, "node n9"
    )
    await refused(
        places.place_vm(rig.cluster, request(), vm("none"), PlacementOptions(priority=1)),
        Code.NOT_FOUND,
        "none",
    )


async def test_a_running_vm_moves_only_when_told_cold(rig: Rig) -> None:
    sessions = await three(rig)
    await create_vm(rig.cluster, request(), new())
    await rig.claim("n1", sessions["n1"])
    await refused(
        places.move_vm(rig.cluster, request(), HELLO, "n2", cold=False),
        Code.CONFLICT, "runs on n1", "metastack vm move default/hello n2 --cold",
    )  # fmt: skip
    assert (await rig.spec()).placement == Placement()
    moved = await places.move_vm(rig.cluster, request(), HELLO, "n2", cold=True)
    assert moved.spec.placement == Placement(node="n2", move=PinMove.COLD)
    said = await explain_vm(rig.cluster, HELLO)
    assert said.summary == "is on n1; a move to n2 is requested, and n2 would take it"
    # The node lets go; the VM comes up on n2.
    waits = asyncio.create_task(wait_vm(rig.cluster, HELLO, Goal.RUNNING, 20, moved.spec, None, "n2"))
    await rig.release()
    assert (await explain_vm(rig.cluster, HELLO)).chosen == "n2"
    await rig.claim("n2", sessions["n2"])
    view = await waits
    assert view is not None and view.node == "n2"
    again = await places.move_vm(rig.cluster, request(), HELLO, "n2", cold=True)
    assert again.spec.placement.move is PinMove.STAY, "it is there"
    assert not (await places.move_vm(rig.cluster, request(), HELLO, "n2", cold=False)).changed
    assert (await places.unpin_vm(rig.cluster, request(), HELLO)).spec.placement == Placement()
    assert not (await places.unpin_vm(rig.cluster, request(), HELLO)).changed


async def test_a_wait_for_a_node_is_not_over_on_another(rig: Rig) -> None:
    sessions = await three(rig)
    made = await create_vm(rig.cluster, request(), new())
    await rig.claim("n1", sessions["n1"])
    problem = await refused(
        wait_vm(rig.cluster, HELLO, Goal.RUNNING, 0.3, made.spec, None, "n2"), Code.TIMEOUT, "not running on n2"
    )
    assert "is running on n1" in problem.message


async def test_a_move_to_where_it_does_not_fit_is_refused(rig: Rig) -> None:
    sessions = await three(rig)
    await create_vm(rig.cluster, request(), new(memory_mib=4000))
    await rig.claim("n1", sessions["n1"])
    await create_vm(rig.cluster, request(), new("big", memory_mib=6000))
    await rig.claim("n2", sessions["n2"], vm("big"))
    await refused(
        places.move_vm(rig.cluster, request(), HELLO, "n2", cold=True),
        Code.CONFLICT, "does not fit node n2: needs 4000 MiB", "metastack vm place default/hello --node",
    )  # fmt: skip
    await places.place_vm(rig.cluster, request(), HELLO, PlacementOptions(node="n2"))
    assert (await rig.spec()).placement == Placement(node="n2"), "which does not stop it"


async def test_a_move_onto_its_own_node_warns_of_refusal(rig: Rig) -> None:
    sessions = await three(rig)
    await create_vm(rig.cluster, request(), new())
    await rig.claim("n1", sessions["n1"])
    assert (await places.move_vm(rig.cluster, request(), HELLO, "n1", cold=True)).remark == ""
    await taint(rig, "n1", "old")
    moved = await places.move_vm(rig.cluster, request(), HELLO, "n1", cold=True)
    assert moved.remark.startswith("it stays on n1"), moved
    assert "n1 no longer fits: does not tolerate" in moved.remark


async def test_what_a_lost_node_had_moves_once_that_is_fenced(rig: Rig) -> None:
    sessions = await three(rig)
    await create_vm(rig.cluster, request(), new())
    await rig.claim("n1", sessions["n1"])
    await rig.lose("n1")
    found = await refused(
        places.move_vm(rig.cluster, request(), HELLO, "n2", cold=False),
        Code.CONFLICT, "may still run on n1, which is lost and not fenced yet", "--cold` starts it on n2 once",
    )  # fmt: skip
    assert "cannot be moved yet" not in found.message
    placed = await places.place_vm(rig.cluster, request(), HELLO, PlacementOptions(priority=2))
    assert placed.remark == "it was on n1, which is lost: the change takes effect once n1 is fenced"
    assert (await places.move_vm(rig.cluster, request(), HELLO, "n2", cold=True)).spec.placement.node == "n2"
    await rig.put(rig.keys.fence("n1"), Fence(through=sessions["n1"]))
    # Nothing runs any more: a pin is all that it takes, and there is no guest to speak of.
    moved = await places.move_vm(rig.cluster, request(), HELLO, "n3", cold=False)
    assert (moved.spec.placement, moved.remark) == (Placement(node="n3"), "")
    assert (await explain_vm(rig.cluster, HELLO)).chosen == "n3"
    placed = await places.place_vm(rig.cluster, request(), HELLO, PlacementOptions(priority=3))
    assert (placed.changed, placed.remark) == (True, "")
    await refused(
        places.move_vm(rig.cluster, request(), HELLO, "n1", cold=False), Code.CONFLICT, "does not fit node n1"
    )


async def test_what_does_not_run_moves_by_its_pin(rig: Rig) -> None:
    await three(rig)
    await create_vm(rig.cluster, request(), new(off=True))
    moved = await places.move_vm(rig.cluster, request(), HELLO, "n2", cold=False)
    assert moved.spec.placement == Placement(node="n2")


async def test_a_vm_that_is_claimed_while_it_is_moved_runs(rig: Rig) -> None:
    """The claim is a guard: what was looked at waited for a node, what would be written is about a guest."""
    sessions = await three(rig)
    await create_vm(rig.cluster, request(), new())

    async def claimed() -> None:
        await rig.claim("n1", sessions["n1"])

    racing = Cluster(cast(Any, Racing(rig.store, claimed)), rig.keys)
    await refused(places.move_vm(racing, request(), HELLO, "n3", cold=False), Code.CONFLICT, "runs on n1")
    assert (await rig.spec()).placement == Placement()


async def node_spec(rig: Rig, name: str) -> NodeSpec:
    entry = await rig.store.get(rig.keys.node_spec(name))
    assert entry is not None
    return decode(NodeSpec, entry.value)


async def test_node_is_no_label(rig: Rig) -> None:
    await three(rig)
    asked = nodes.label_node(rig.cluster, request(), "n1", {"node": "x"}, set())
    await refused(asked, Code.USAGE, "reserved for the node's name")
    await rig.put(rig.keys.node_spec("n1"), NodeSpec(labels={"node": "of old"}))
    assert await nodes.label_node(rig.cluster, request(), "n1", {}, {"node"})


async def test_taints(rig: Rig) -> None:
    await three(rig)
    assert await taint(rig, "n1", "dedicated=db", "old:PreferNoSchedule")
    assert not await taint(rig, "n1", "dedicated=db")
    assert (await node_spec(rig, "n1")).taints == (
        Taint(key="dedicated", value="db"),
        Taint(key="old", effect=Effect.PREFER_NO_SCHEDULE),
    )
    assert (await node_spec(rig, "n1")).labels == {"zone": "a"}, "the rest stays"
    assert await taint(rig, "n1", "dedicated=web", "dedicated:PreferNoSchedule")
    assert [nodes.full_taint(one) for one in (await node_spec(rig, "n1")).taints] == [
        "dedicated=web:NoSchedule", "dedicated:PreferNoSchedule", "old:PreferNoSchedule",
    ]  # fmt: skip
    assert await taint(rig, "n1", "dedicated:NoSchedule-", "old-")
    assert [nodes.full_taint(one) for one in (await node_spec(rig, "n1")).taints] == [
        "dedicated:PreferNoSchedule"
    ]
    assert not await taint(rig, "n1", "nothing-")
    with pytest.raises(Problem) as found:
        nodes.taint_changes(["x:NoExecute"])
    assert "metastack node drain" in found.value.hint
    for wrong in ("", "a b", "x:", "x:Never", ":NoSchedule"):
        with pytest.raises(Problem) as found:
            nodes.taint_changes([wrong])
        assert found.value.code is Code.USAGE
    with pytest.raises(Problem):
        nodes.taint_changes(["a=1", "a-"])


async def test_drain_and_undrain(rig: Rig) -> None:
    await three(rig)
    assert await nodes.drain_node(rig.cluster, request(), "n1")
    assert not await nodes.drain_node(rig.cluster, request(), "n1")
    await nodes.cordon_node(rig.cluster, request(), "n1")
    assert await nodes.undrain_node(rig.cluster, request(), "n1")
    spec = await node_spec(rig, "n1")
    assert (spec.draining, spec.cordoned) == (False, True)


async def until(told: asyncio.Queue[str], wanted: str) -> None:
    seen = []
    try:
        async with asyncio.timeout(20):
            while not (seen and seen[-1].startswith(wanted)):
                seen.append(await told.get())
    except TimeoutError:
        pytest.fail(f"never told {wanted!r}, only {seen}")


async def test_waiting_for_a_drain_follows_it_to_the_end(rig: Rig) -> None:
    sessions = await three(rig)
    for name in ("a", "b"):
        await create_vm(rig.cluster, request(), new(name))
        await rig.claim("n1", sessions["n1"], vm(name))
    await nodes.drain_node(rig.cluster, request(), "n1")
    told: asyncio.Queue[str] = asyncio.Queue()
    waits = asyncio.create_task(drains.wait_drained(rig.cluster, "n1", 30, told.put_nowait))
    await until(told, "2 VMs left; next default/a, which fits n")
    await rig.release(vm("a"))
    await until(told, "1 VM left; next default/b")
    await rig.claim("n2", sessions["n2"], vm("a"))
    await rig.release(vm("b"))
    await until(told, "the node is empty")
    await waits


async def test_a_drain_says_that_maintenance_holds_it(rig: Rig) -> None:
    sessions = await three(rig)
    await create_vm(rig.cluster, request(), new("a"))
    await rig.claim("n1", sessions["n1"], vm("a"))
    await nodes.drain_node(rig.cluster, request(), "n1")
    await rig.put(rig.keys.maintenance(), Maintenance(by="me", reason="a switch"))
    waits = drains.wait_drained(rig.cluster, "n1", 0.3, lambda _: None)
    await refused(waits, Code.TIMEOUT, "under maintenance: a switch (me): no VM leaves before it ends")


async def test_a_drain_that_is_stuck_says_which_vm_and_why(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drains, "PATIENCE_S", 0.2)
    sessions = await three(rig)
    await create_vm(rig.cluster, request(), new("here", node="n1"))
    await rig.claim("n1", sessions["n1"], vm("here"))
    await nodes.drain_node(rig.cluster, request(), "n1")
    problem = await refused(
        drains.wait_drained(rig.cluster, "n1", 30, lambda _: None),
        Code.FAILED, "default/here (the VM is pinned to n1 (n2 and 1 more)", "metastack node undrain n1",
    )  # fmt: skip
    assert "1 VM fits no other node" in problem.message
    await places.unpin_vm(rig.cluster, request(), vm("here"))
    late = await refused(drains.wait_drained(rig.cluster, "n1", 0.3, lambda _: None), Code.TIMEOUT, "0.3 s")
    assert "next default/here" in late.message


async def test_a_rule_over_zones_is_written_with_notice_of_it(rig: Rig) -> None:
    """Whoever has not heard of the rule claims with the notice that it saw, and loses."""
    await three(rig)

    async def notices() -> dict[str, int]:
        entries = (await rig.cluster.store.list(rig.keys.prefix(Kind.GROUP))).entries
        return {entry.key.split("/")[-2]: entry.mod_revision for entry in entries}

    apart = PlacementOptions(anti_affinity=["app=db,tier=1@zone"])
    plain = await create_vm(rig.cluster, request(), new("plain", labels={"app": "db"}))
    (label,) = of_labels(plain.spec)
    beside, zone = (
        Placement(anti_affinity=(GroupTerm(labels={"app": "db"}, topology=t),)) for t in ("node", "zone")
    )
    await create_vm(rig.cluster, request(), new("beside", placement=beside))
    assert await notices() == {}
    many = [new(f"w{n}", placement=zone) for n in range(3)]
    await create_vms(rig.cluster, request(), many)
    first = await notices()
    assert set(first) == {label}
    await places.place_vm(rig.cluster, request(), vm("w0"), PlacementOptions(priority=3))
    await vms.stop_vm(rig.cluster, request(), vm("w0"))
    assert await notices() == first, "nothing that begins to count"
    await vms.start_vm(rig.cluster, request(), vm("w0"))
    second = await notices()
    assert second[label] > first[label]
    await places.place_vm(rig.cluster, request(), vm("plain"), apart)
    assert (await notices())[label] > second[label]
