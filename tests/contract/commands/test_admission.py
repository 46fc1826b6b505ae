"""Admission: create, place and move keep capacity for the VMs of lost nodes; on both stores."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest
from commands_rig import Racing, Rig, request
from msgspec.structs import replace
from places_rig import fill, new, refused, spare, three, vm

from metastack.commands.capacity import whatif as outlook
from metastack.commands.problem import Code, Problem
from metastack.commands.reading import read_engine_state
from metastack.commands.request import Cluster
from metastack.commands.vm import change as vms
from metastack.commands.vm import place as places
from metastack.commands.vm.create import create_vm, create_vms, plan_vms
from metastack.commands.vm.explain import explain_plan
from metastack.commands.vm.placement_options import PlacementOptions
from metastack.core.model import Claim, Ha, NodeSpec, Phase, PinMove, Placement, Power
from metastack.core.placement import PlacementEngine


async def test_capacity_for_lost_nodes_is_kept(rig: Rig) -> None:
    """Three nodes of 7 GiB hold 4 VMs of 3 GiB with one to spare, and no fifth."""
    sessions = await three(rig)
    await spare(rig)
    big = {"memory_mib": 3000}
    for n in range(4):
        await create_vm(rig.cluster, request(), new(f"v{n}", **big))
        await fill(rig, sessions)
    thought = await plan_vms(rig.cluster, request(), [new("v4", **big)])
    [said] = await explain_plan(rig.cluster, request(), thought)
    assert said.chosen and said.refused and "spare_nodes=1" in said.refused
    problem = await refused(
        create_vm(rig.cluster, request(), new("v4", **big)),
        Code.CONFLICT, "spare_nodes=1", "without n", "would not fit", "--ignore-spare", "whatif --lose",
    )  # fmt: skip
    assert problem.object == "vm default/v4"
    assert await rig.store.get(rig.keys.vm_spec(vm("v4"))) is None
    many = [new(f"m{n}", memory_mib=100) for n in range(40)]
    await refused(create_vms(rig.cluster, request(), many), Code.CONFLICT, "vm default/m0 and 39 more")
    assert len((await create_vms(rig.cluster, request(), many[:10])).specs) == 10
    await create_vm(rig.cluster, request(), new("off", off=True, **big))
    await refused(vms.start_vm(rig.cluster, request(), vm("off")), Code.CONFLICT, "spare_nodes=1")
    await refused(vms.restart_vm(rig.cluster, request(), vm("off")), Code.CONFLICT, "spare_nodes=1")
    assert (await rig.spec(vm("off"))).power is Power.OFF
    assert (await vms.restart_vm(rig.cluster, request(), vm("v0"))).changed, "what runs has its room"
    assert (await vms.start_vm(rig.cluster, request(), vm("off"), ignore_spare=True)).changed
    await refused(
        create_vm(rig.cluster, request(), new("huge", memory_mib=9000)), Code.CONFLICT, "fits no node now"
    )


async def test_only_one_of_two_competing_vms_is_admitted(rig: Rig) -> None:
    """Both look before either writes: the second one's guard fails, it looks again, and is refused."""
    sessions = await three(rig)
    await spare(rig)
    for n in range(3):
        await create_vm(rig.cluster, request(), new(f"v{n}", memory_mib=3000))
        await fill(rig, sessions)
    answers = await asyncio.gather(
        *(create_vm(rig.cluster, request(), new(f"w{n}", memory_mib=3000)) for n in range(4)),
        return_exceptions=True,
    )
    assert len([one for one in answers if not isinstance(one, Problem)]) == 1, answers
    world = await read_engine_state(rig.cluster)
    assert len([one for one, _ in world.specs() if one.name.startswith("w")]) == 1


async def test_without_spare_nodes_a_create_reads_the_minimum(rig: Rig) -> None:
    await three(rig)
    lists = 0

    class Watching(Racing):
        async def list(self, *wanted: str) -> object:
            nonlocal lists
            lists += 1
            return await rig.store.list(*wanted)

    cluster = Cluster(cast(Any, Watching(rig.store, None, 0)), rig.keys)
    await create_vm(cluster, request(), new())
    assert lists == 0
    assert await rig.store.get(rig.keys.admission()) is None


async def test_a_vm_bound_to_one_node_needs_no_spare_node(rig: Rig) -> None:
    await three(rig)
    await spare(rig)
    await create_vm(rig.cluster, request(), new("pinned", node="n1"))
    await create_vm(rig.cluster, request(), new("free"))


async def test_more_spare_nodes_than_nodes_is_reported(rig: Rig) -> None:
    await three(rig)
    await spare(rig, 4)
    said = await refused(
        create_vm(rig.cluster, request(), new("a")), Code.CONFLICT, "spare_nodes=4 reserves capacity for"
    )
    assert "only 3 are up" in said.message
    assert "`metastack config set spare_nodes=2`" in said.hint


async def test_capacity_promised_to_pending_vms_counts_as_taken(rig: Rig) -> None:
    """Nobody has claimed anything yet: the next one must not be let in on a node that the first one needs."""
    await three(rig, "a", "b")
    await spare(rig)
    await create_vm(rig.cluster, request(), new("first", memory_mib=5000))
    await refused(
        create_vm(rig.cluster, request(), new("second", memory_mib=5000)),
        Code.CONFLICT,
        "without n",
        "would not fit",
    )


async def kept_by_one_node(rig: Rig) -> dict[str, int]:
    """Three nodes of 7 GiB: n3's big VM has capacity on n2 alone, which is empty."""
    sessions = await three(rig, "a", "b", "c")
    for name, node, mib in (("left", "n1", 3000), ("right", "n1", 3000), ("big", "n3", 5000)):
        await create_vm(rig.cluster, request(), new(name, memory_mib=mib))
        await rig.claim(node, sessions[node], vm(name))
    await spare(rig)
    assert outlook.any_loss(await read_engine_state(rig.cluster), 1).fits
    return sessions


async def test_a_move_into_reserved_capacity_is_refused(rig: Rig) -> None:
    sessions = await kept_by_one_node(rig)

    def move(node: str, **more: Any) -> Any:
        return places.move_vm(rig.cluster, request(), vm("left"), node, cold=True, **more)

    said = (
        "spare_nodes=1",
        "without n3, default/big would not fit",
        "choose another node, or override with --ignore-spare",
    )
    await refused(move("n2"), Code.CONFLICT, *said)
    assert (await rig.spec(vm("left"))).placement == Placement()
    assert await rig.store.get(rig.keys.admission()) is None
    moved = await move("n2", ignore_spare=True)
    assert moved.spec.placement == Placement(node="n2", move=PinMove.COLD)
    await rig.release(vm("left"))
    await rig.claim("n2", sessions["n2"], vm("left"))
    assert not outlook.any_loss(await read_engine_state(rig.cluster), 1).fits, "as it was said"
    # Nothing is kept now: whoever mends that, also in several steps, is not stopped.
    assert (await move("n1")).changed
    assert (await places.place_vm(rig.cluster, request(), vm("right"), PlacementOptions(node="n1"))).changed


async def test_demands_beyond_the_reserve_are_refused(rig: Rig) -> None:
    """It runs on, and could go nowhere once its node is lost: n1 would take it if only it had capacity."""
    await kept_by_one_node(rig)

    def place(**more: Any) -> Any:
        return places.place_vm(rig.cluster, request(), vm("big"), PlacementOptions(**more))

    await refused(place(node="n1"), Code.CONFLICT, "without n3, default/big would not fit", "--ignore-spare")
    await refused(place(node_selector=["zone=a"]), Code.CONFLICT, "spare_nodes=1")
    await vms.delete_vm(rig.cluster, request(), vm("right"))
    await rig.release(vm("right"))
    assert (await place(node="n3")).changed, "whoever may run nowhere else needs no room elsewhere"
    assert await rig.store.get(rig.keys.admission()) is not None, "judged one after the other"
    await create_vm(rig.cluster, request(), new("late", memory_mib=2500))
    engine = PlacementEngine(await read_engine_state(rig.cluster))
    assert engine.waiting[vm("late")].head[0] == "n2"
    await refused(
        places.unpin_vm(rig.cluster, request(), vm("big")),
        Code.CONFLICT,
        "without n3, default/big would not fit",
    )
    assert (await places.unpin_vm(rig.cluster, request(), vm("big"), ignore_spare=True)).changed


async def test_a_pinned_vm_that_is_off_takes_no_capacity(rig: Rig) -> None:
    await kept_by_one_node(rig)
    await create_vm(rig.cluster, request(), new("off", memory_mib=3000, off=True))
    assert (await places.move_vm(rig.cluster, request(), vm("off"), "n2", cold=False)).changed
    await refused(vms.start_vm(rig.cluster, request(), vm("off")), Code.CONFLICT, "spare_nodes=1")
    assert (
        await places.place_vm(rig.cluster, request(), vm("left"), PlacementOptions(priority=0, arch=""))
    ).changed is False
    assert (await places.place_vm(rig.cluster, request(), vm("left"), PlacementOptions(priority=5))).changed


@pytest.mark.parametrize("how", ["", "cordoned", "draining", "lost"])
async def test_capacity_for_evacuating_vms_is_kept(rig: Rig, how: str) -> None:
    """5000 MiB are on n1, whatever n1 takes. Who comes goes where it is emptier: one of 3500 too many."""
    sessions = await three(rig, *"abcd" if how in ("draining", "lost") else "abc")
    await spare(rig)
    await create_vm(rig.cluster, request(), new("there", memory_mib=5000, node="n1"))
    await fill(rig, sessions)
    await places.unpin_vm(rig.cluster, request(), vm("there"))
    if how == "lost":
        await rig.lose("n1")
    else:
        await rig.put(
            rig.keys.node_spec("n1"), NodeSpec(cordoned=how == "cordoned", draining=how == "draining")
        )
    others = [name for name in sessions if name != "n1"]
    for name in others[:-1]:
        await create_vm(
            rig.cluster, request(), new(f"on-{name}", memory_mib=3500, node=name), ignore_spare=True
        )
    await fill(rig, sessions)
    await refused(
        create_vm(rig.cluster, request(), new("last", memory_mib=3500)), Code.CONFLICT, "spare_nodes=1"
    )


async def test_several_vms_are_judged_in_line_order(rig: Rig) -> None:
    """Written at once they stand by name, in whatever order they are given: z comes last, without capacity."""
    await three(rig, "a", "b")
    news = [new("z", memory_mib=7000), new("a", memory_mib=3000), new("b", memory_mib=3000)]
    said = await explain_plan(rig.cluster, request(), await plan_vms(rig.cluster, request(), news))
    assert [view.name for view in said if view.chosen is None] == ["z"]
    await create_vms(rig.cluster, request(), news)
    waiting = PlacementEngine(await read_engine_state(rig.cluster)).waiting
    assert [v.name for v, wait in waiting.items() if not wait.head] == ["z"]


async def test_an_admitted_pending_vm_keeps_its_capacity(rig: Rig) -> None:
    """app waits for db to be up; what comes meanwhile with a higher priority would leave it nothing."""
    sessions = await three(rig)
    await spare(rig)
    await create_vm(rig.cluster, request(), new("db", memory_mib=100, node="n2"))
    await fill(rig, sessions)
    await rig.status("n2", sessions["n2"], Phase.STARTING, vm("db"))
    app = new("app", memory_mib=5000, node="n1", ha=Ha(start_after=("db",)))
    await create_vm(rig.cluster, request(), app)
    urgent = new("urgent", memory_mib=5000, node="n1", ha=Ha(priority=10))
    await refused(
        create_vm(rig.cluster, request(), urgent), Code.CONFLICT, "capacity reserved for pending VMs", "app"
    )
    await create_vm(rig.cluster, request(), replace(urgent, node="n3"))
    moved = places.place_vm(rig.cluster, request(), vm("urgent"), PlacementOptions(node="n1"))
    await refused(moved, Code.CONFLICT, "capacity reserved for pending VMs")


async def test_a_vm_to_release_is_placed_where_it_fits(rig: Rig) -> None:
    sessions = await three(rig)
    await spare(rig)
    await create_vm(rig.cluster, request(), new("back", memory_mib=5000, off=True))
    await create_vm(rig.cluster, request(), new("full", memory_mib=4000, node="n2"))
    await fill(rig, sessions)
    await rig.lose("n1")
    spec = await rig.spec(vm("back"))
    claim = Claim(
        node="n2", session=sessions["n2"], uuid=spec.uuid, volume_uuid=spec.volume_uuid, claim_id="c",
        taken_from="n1", to_release=True,
    )  # fmt: skip
    await rig.put(rig.keys.claim(vm("back")), claim)
    await refused(
        vms.start_vm(rig.cluster, request(), vm("back")), Code.CONFLICT, "without n3", "back would not fit"
    )


async def test_a_write_past_the_reserve_fails_the_earlier_look(rig: Rig) -> None:
    await three(rig)
    await spare(rig)
    await create_vm(rig.cluster, request(), new("a"), ignore_spare=True)
    assert await rig.store.get(rig.keys.admission()) is not None
