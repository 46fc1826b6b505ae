"""Where VMs may run and do: explain, place, move, many at once, admission, taints, drains; on both stores."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any, cast

import pytest
from commands_rig import HELLO, Racing, Rig, deed
from msgspec.structs import replace

from metastack.commands import drains, nodes, outlook, places, vms
from metastack.commands.creation import AT_ONCE, NewVm, create_vm, create_vms, numbered, plan_vms
from metastack.commands.deed import Cluster
from metastack.commands.demands import Demands
from metastack.commands.doctor import examine
from metastack.commands.doctor.facts import collect
from metastack.commands.explanation import explain_plan, explain_vm
from metastack.commands.history import vm_history
from metastack.commands.problem import Code, Problem
from metastack.commands.reading import read_board_world
from metastack.commands.wait import Goal, wait_vm
from metastack.core.change import MAX_OPERATIONS, Change, Put
from metastack.core.codec import decode
from metastack.core.model import (
    ClusterConfig,
    Effect,
    GroupTerm,
    Ha,
    Hint,
    NodeSpec,
    PinMove,
    Placement,
    Power,
    Taint,
    Toleration,
    VmId,
)
from metastack.core.placement import Board


def vm(name: str) -> VmId:
    return VmId("default", name)


def new(name: str = "hello", **more: Any) -> NewVm:
    return NewVm(**{"vm": vm(name), "image": "tiny", **more})


async def refused(awaitable: Any, code: Code, *says: str) -> Problem:
    with pytest.raises(Problem) as caught:
        await awaitable
    assert caught.value.code is code, caught.value
    for text in says:
        assert text in f"{caught.value} {caught.value.hint}"
    return caught.value


async def three(rig: Rig, *zones: str, memory_mib: int = 8192) -> dict[str, int]:
    """An image, and nodes n1, n2, ... in those zones; their sessions."""
    await rig.image()
    sessions = {}
    for n, zone in enumerate(zones or ("a", "b", "c"), 1):
        sessions[f"n{n}"] = await rig.node(f"n{n}", memory_mib=memory_mib)
        await nodes.label_node(rig.cluster, deed(), f"n{n}", {"zone": zone}, set())
    return sessions


# --- explain


async def test_explain_says_what_every_node_says(rig: Rig) -> None:
    sessions = await three(rig)
    far = Placement(anti_affinity=(GroupTerm(labels={"app": "web"}, topology="zone"),))
    await create_vm(rig.cluster, deed(), new("one", labels={"app": "web"}, placement=far))
    await rig.claim("n1", sessions["n1"], vm("one"))
    await create_vm(rig.cluster, deed(), new("two", labels={"app": "web"}, placement=far))
    await nodes.cordon_node(rig.cluster, deed(), "n3")
    two = await explain_vm(rig.cluster, vm("two"))
    assert (two.chosen, two.node, two.line, two.phase) == ("n2", None, 1, "pending")
    assert two.summary == "waits for n2 to take it"
    assert {said.node: said.fits for said in two.nodes} == {"n1": False, "n2": True, "n3": False}
    best = two.nodes[0]
    assert (best.node, best.rank, best.chosen, best.reasons) == ("n2", 1, True, [])
    assert best.score is not None and set(best.parts) == {"spread", "groups"}
    why = {said.node: said.reasons for said in two.nodes}
    assert why["n3"] == ["the node is cordoned"]
    assert why["n1"] == ["1 with app=web in zone a already (anti-affinity)"]
    [rule] = two.rules
    assert (rule.kind, rule.group, rule.topology, rule.members) == (
        "anti-affinity",
        "app=web",
        "zone",
        {"a": 1},
    )
    assert two.demands == ["--anti-affinity app=web@zone"]
    one = await explain_vm(rig.cluster, vm("one"))
    assert (one.node, one.chosen, one.session) == ("n1", "n1", sessions["n1"])
    assert one.summary == "is on n1; there is no better place"


async def test_explain_says_why_it_waits_and_why_it_stays(rig: Rig) -> None:
    sessions = await three(rig)
    await create_vm(rig.cluster, deed(), new("db", ha=Ha(ready_port=5432)))
    await create_vm(rig.cluster, deed(), new("app", ha=Ha(start_after=("db",)), memory_mib=7000))
    app = await explain_vm(rig.cluster, vm("app"))
    assert app.held == "starts after default/db, which does not run yet"
    assert app.summary == f"waits: {app.held}"
    assert [(gate.vm, gate.phase, gate.up) for gate in app.gates] == [("default/db", "pending", False)]
    assert app.line == 2
    await rig.claim("n1", sessions["n1"], vm("db"))
    app = await explain_vm(rig.cluster, vm("app"))
    assert app.held is None and app.gates[0].up
    await rig.put(rig.keys.hint(vm("app")), Hint(uuid=app.uuid, node="n3", by="s1"))
    app = await explain_vm(rig.cluster, vm("app"))
    assert app.hint is not None and (app.hint.node, app.hint.honoured) == ("n3", True)
    assert app.chosen == "n3"
    await nodes.cordon_node(rig.cluster, deed(), "n1")
    db = await explain_vm(rig.cluster, vm("db"))
    assert db.summary == ("is on n1; it stays there, and would not be placed there anew: the node is cordoned")
    assert [(said.node, said.here) for said in db.nodes if said.chosen] == [("n1", True)]
    await nodes.drain_node(rig.cluster, deed(), "n1")
    assert "the node is draining, and n" in (await explain_vm(rig.cluster, vm("db"))).summary
    await vms.stop_vm(rig.cluster, deed(), vm("app"))
    assert (await explain_vm(rig.cluster, vm("app"))).summary.startswith("is off; were it started now, n")
    await create_vm(rig.cluster, deed(), new("huge", memory_mib=99999))
    huge = await explain_vm(rig.cluster, vm("huge"))
    assert huge.chosen is None
    assert huge.summary.startswith("no node takes it: needs 99999 MiB of memory")
    await refused(explain_vm(rig.cluster, vm("none")), Code.NOT_FOUND, "default/none")
    await rig.write(Put(rig.keys.vm_spec(vm("db")), b'{"v":9}'))
    await refused(explain_vm(rig.cluster, vm("db")), Code.FAILED, "cannot be read")


async def test_a_dry_run_writes_nothing_and_says_what_would_be(rig: Rig) -> None:
    await three(rig)
    before = await rig.store.list(rig.keys.prefix())
    news = [new(name, memory_mib=6000) for name in ("a", "b", "c", "d")]
    said = await explain_plan(rig.cluster, deed(), await plan_vms(rig.cluster, deed(), news))
    assert {view.chosen for view in said[:3]} == {"n1", "n2", "n3"}, "each counts those before it"
    assert said[3].chosen is None
    assert said[2].summary == f"would go to {said[2].chosen}", "no other has the room"
    [one] = await explain_plan(rig.cluster, deed(), await plan_vms(rig.cluster, deed(), news[:1]))
    first, second = sorted({"n1", "n2", "n3"} - {one.chosen})
    equal = f"{first} or {second}, as good: the UUID that it is given decides"
    assert one.summary == f"would go to {one.chosen}, or to {equal}"
    assert said[3].summary.startswith("no node would take it: needs 6000 MiB of memory")
    after = await rig.store.list(rig.keys.prefix())
    assert after.entries == before.entries


# --- creating


async def test_demands_are_written_and_strangers_refused(rig: Rig) -> None:
    await three(rig)
    place = Placement(node_selector={"zone": "a"}, tolerations=(Toleration(key="x"),))
    made = await create_vm(
        rig.cluster, deed(), new(placement=place, ha=Ha(priority=7), resources={"gpu": 1}, node="n1")
    )
    spec = await rig.spec()
    assert spec == made.spec
    assert spec.placement == replace(place, node="n1")
    assert (spec.ha.priority, spec.resources) == (7, {"gpu": 1})
    await refused(
        create_vm(rig.cluster, deed(), new("b", placement=Placement(node="n9"))), Code.NOT_FOUND, "node n9"
    )
    await refused(
        create_vm(rig.cluster, deed(), new("b", ha=Ha(start_after=("ghost",)))),
        Code.NOT_FOUND, "vm default/ghost", "--start-after names it",
    )  # fmt: skip
    await refused(
        create_vm(rig.cluster, deed(), new("b", ha=Ha(start_after=("b",)))), Code.CONFLICT, "b after b"
    )


async def test_a_circle_of_starts_is_refused_with_its_way(rig: Rig) -> None:
    await three(rig)
    for name, after in (("a", ()), ("b", ("a",)), ("c", ("b",))):
        await create_vm(rig.cluster, deed(), new(name, ha=Ha(start_after=after)))
    await refused(
        places.place_vm(rig.cluster, deed(), vm("a"), Demands(start_after=["c"])),
        Code.CONFLICT, "a after c after b after a",
    )  # fmt: skip
    await vms.delete_vm(rig.cluster, deed(), vm("a"))
    await refused(
        create_vm(rig.cluster, deed(), new("a", ha=Ha(start_after=("c",)))), Code.CONFLICT, "after itself"
    )


@pytest.mark.parametrize(
    ("template", "count", "first", "wanted"),
    [
        ("web-{n}", 3, 1, ["web-1", "web-2", "web-3"]),
        ("{n:03}-web", 2, 99, ["099-web", "100-web"]),
        ("p/web-{n:2}", 1, 0, ["p/web-00"]),
    ],
)
def test_names_from_a_template(template: str, count: int, first: int, wanted: list[str]) -> None:
    assert numbered(template, count, first) == wanted


@pytest.mark.parametrize(
    ("template", "count", "first"),
    [("web", 1, 1), ("{n}{n}", 1, 1), ("{n}{x}", 1, 1), ("{n!r}", 1, 1), ("w{n}", 0, 1), ("w{n}", 1001, 1),
     ("w{n}", 1, -1)],
)  # fmt: skip
def test_templates_that_are_none(template: str, count: int, first: int) -> None:
    with pytest.raises(Problem) as found:
        numbered(template, count, first)
    assert found.value.code is Code.USAGE


class Counting(Racing):
    """Counts what each transaction carries."""

    def __init__(self, store: object) -> None:
        super().__init__(store, None, 0)
        self.sizes: list[tuple[int, int]] = []

    async def commit(self, change: Change) -> object:
        self.sizes.append((len(change.guards), len(change.effects)))
        return await super().commit(change)


async def test_forty_at_once_are_three_transactions(rig: Rig) -> None:
    await three(rig)
    counting = Counting(rig.store)
    cluster = Cluster(cast(Any, counting), rig.keys)
    one = deed("many")
    made = await create_vms(cluster, one, [new(name) for name in numbered("web-{n}", 40)])
    assert [spec.name for spec in made.specs] == numbered("web-{n}", 40) and made.problem is None
    assert len({spec.uuid for spec in made.specs} | {spec.volume_uuid for spec in made.specs}) == 80
    assert len(counting.sizes) == 3
    assert all(max(size) < MAX_OPERATIONS for size in counting.sizes)
    assert max(guards for guards, _ in counting.sizes) == AT_ONCE + 2, "each name, the image, the event"
    events = [event for event in await rig.events() if event.request_id == one.request_id]
    own = [event for event in events if event.what == "vm.create"]
    assert {event.object for event in own} == {f"vm default/{name}" for name in numbered("web-{n}", 40)}
    assert len([event for event in events if event.what == "vm.create_many"]) == 3
    [first] = await rig.history(vm("web-1"))
    assert first == made.specs[0]


async def test_one_taken_name_and_nothing_is_written(rig: Rig) -> None:
    await three(rig)
    await create_vm(rig.cluster, deed(), new("web-39"))
    problem = await refused(
        create_vms(rig.cluster, deed(), [new(name) for name in numbered("web-{n}", 40)]),
        Code.CONFLICT, "default/web-39", "exists already",
    )  # fmt: skip
    assert "more" not in problem.message
    world = await read_board_world(rig.cluster)
    assert [found.name for found, _ in world.specs()] == ["web-39"]


async def test_a_later_part_that_fails_leaves_the_earlier_ones_and_says_so(rig: Rig) -> None:
    await three(rig)

    async def rival() -> None:
        if racing.times == 0:  # before the second transaction
            await create_vm(rig.cluster, deed(), new("web-20"))

    racing = Racing(rig.store, rival, 2)
    made = await create_vms(
        Cluster(cast(Any, racing), rig.keys), deed(), [new(name) for name in numbered("web-{n}", 32)]
    )
    assert [spec.name for spec in made.specs] == numbered("web-{n}", 16)
    assert made.problem is not None and "web-20: exists already" in str(made.problem)


async def test_a_lost_reply_does_not_write_many_twice(rig: Rig) -> None:
    from metastack.ports import UnknownOutcome

    await three(rig)

    class Silent(Racing):
        async def commit(self, change: Any) -> Any:
            outcome = await rig.store.commit(change)
            if self.times:
                self.times -= 1
                raise UnknownOutcome("no reply")
            return outcome

    silent = Cluster(cast(Any, Silent(rig.store, None, 2)), rig.keys)
    made = await create_vms(silent, deed(), [new(name) for name in numbered("w{n}", 20)])
    assert made.problem is None and len(made.specs) == 20
    assert (await rig.spec(vm("w1"))).uuid == made.specs[0].uuid
    assert (await rig.spec(vm("w20"))).uuid == made.specs[19].uuid
    assert len([event for event in await rig.events() if event.what == "vm.create_many"]) == 2


# --- admission


async def spare(rig: Rig, count: int = 1) -> None:
    await rig.put(rig.keys.cluster(), ClusterConfig(spare_nodes=count))


async def fill(rig: Rig, sessions: dict[str, int]) -> None:
    """Every waiting VM goes where it should."""
    while True:
        board = Board(await read_board_world(rig.cluster))
        heads = [(wait.vm, wait.head[0]) for wait in board.waiting.values() if wait.head]
        if not heads:
            return
        for name, node in heads:
            await rig.claim(node, sessions[node], name)


async def test_room_for_lost_nodes_is_kept(rig: Rig) -> None:
    """Three nodes of 7 GiB hold 4 VMs of 3 GiB with one to spare, and no fifth."""
    sessions = await three(rig)
    await spare(rig)
    big = {"memory_mib": 3000}
    for n in range(4):
        await create_vm(rig.cluster, deed(), new(f"v{n}", **big))
        await fill(rig, sessions)
    thought = await plan_vms(rig.cluster, deed(), [new("v4", **big)])
    [said] = await explain_plan(rig.cluster, deed(), thought)
    assert said.chosen and said.refused and "spare_nodes=1" in said.refused
    problem = await refused(
        create_vm(rig.cluster, deed(), new("v4", **big)),
        Code.CONFLICT, "spare_nodes=1", "without n", "would not fit", "--ignore-spare", "whatif --lose",
    )  # fmt: skip
    assert problem.object == "vm default/v4"
    assert await rig.store.get(rig.keys.vm_spec(vm("v4"))) is None
    many = [new(f"m{n}", memory_mib=100) for n in range(40)]
    await refused(create_vms(rig.cluster, deed(), many), Code.CONFLICT, "vm default/m0 and 39 more")
    assert len((await create_vms(rig.cluster, deed(), many[:10])).specs) == 10
    await create_vm(rig.cluster, deed(), new("off", off=True, **big))
    await refused(vms.start_vm(rig.cluster, deed(), vm("off")), Code.CONFLICT, "spare_nodes=1")
    await refused(vms.restart_vm(rig.cluster, deed(), vm("off")), Code.CONFLICT, "spare_nodes=1")
    assert (await rig.spec(vm("off"))).power is Power.OFF
    assert (await vms.restart_vm(rig.cluster, deed(), vm("v0"))).changed, "what runs has its room"
    assert (await vms.start_vm(rig.cluster, deed(), vm("off"), ignore_spare=True)).changed
    await refused(
        create_vm(rig.cluster, deed(), new("huge", memory_mib=9000)), Code.CONFLICT, "no node takes now"
    )


async def test_of_two_that_fit_only_one_at_a_time_one_is_written(rig: Rig) -> None:
    """Both look before either writes: the second one's guard fails, it looks again, and is refused."""
    sessions = await three(rig)
    await spare(rig)
    for n in range(3):
        await create_vm(rig.cluster, deed(), new(f"v{n}", memory_mib=3000))
        await fill(rig, sessions)
    answers = await asyncio.gather(
        *(create_vm(rig.cluster, deed(), new(f"w{n}", memory_mib=3000)) for n in range(4)),
        return_exceptions=True,
    )
    assert len([one for one in answers if not isinstance(one, Problem)]) == 1, answers
    world = await read_board_world(rig.cluster)
    assert len([one for one, _ in world.specs() if one.name.startswith("w")]) == 1


async def test_without_spare_nodes_a_create_reads_no_more_than_it_must(rig: Rig) -> None:
    await three(rig)
    lists = 0

    class Watching(Racing):
        async def list(self, *wanted: str) -> object:
            nonlocal lists
            lists += 1
            return await rig.store.list(*wanted)

    cluster = Cluster(cast(Any, Watching(rig.store, None, 0)), rig.keys)
    await create_vm(cluster, deed(), new())
    assert lists == 0
    assert await rig.store.get(rig.keys.admission()) is None


async def test_who_could_run_nowhere_else_needs_no_spare_node(rig: Rig) -> None:
    await three(rig)
    await spare(rig)
    await create_vm(rig.cluster, deed(), new("pinned", node="n1"))
    await create_vm(rig.cluster, deed(), new("free"))


async def kept_by_one_node(rig: Rig) -> dict[str, int]:
    """Three nodes of 7 GiB: n3's big VM has room on n2 alone, which is empty."""
    sessions = await three(rig, "a", "b", "c")
    for name, node, mib in (("left", "n1", 3000), ("right", "n1", 3000), ("big", "n3", 5000)):
        await create_vm(rig.cluster, deed(), new(name, memory_mib=mib))
        await rig.claim(node, sessions[node], vm(name))
    await spare(rig)
    assert outlook.any_loss(await read_board_world(rig.cluster), 1).fits
    return sessions


async def test_a_move_that_takes_a_lost_nodes_room_is_refused(rig: Rig) -> None:
    sessions = await kept_by_one_node(rig)

    def move(node: str, **more: Any) -> Any:
        return places.move_vm(rig.cluster, deed(), vm("left"), node, cold=True, **more)

    said = (
        "spare_nodes=1",
        "without n3, default/big would not fit",
        "choose another place, or say --ignore-spare",
    )
    await refused(move("n2"), Code.CONFLICT, *said)
    assert (await rig.spec(vm("left"))).placement == Placement()
    assert await rig.store.get(rig.keys.admission()) is None
    moved = await move("n2", ignore_spare=True)
    assert moved.spec.placement == Placement(node="n2", move=PinMove.COLD)
    await rig.release(vm("left"))
    await rig.claim("n2", sessions["n2"], vm("left"))
    assert not outlook.any_loss(await read_board_world(rig.cluster), 1).fits, "as it was said"
    # Nothing is kept now: whoever mends that, also in several steps, is not stopped.
    assert (await move("n1")).changed
    assert (await places.place_vm(rig.cluster, deed(), vm("right"), Demands(node="n1"))).changed


async def test_demands_that_leave_no_room_after_a_loss_are_refused(rig: Rig) -> None:
    """It runs on, and could go nowhere once its node is lost: n1 would take it if only it had room."""
    await kept_by_one_node(rig)

    def place(**more: Any) -> Any:
        return places.place_vm(rig.cluster, deed(), vm("big"), Demands(**more))

    await refused(place(node="n1"), Code.CONFLICT, "without n3, default/big would not fit", "--ignore-spare")
    await refused(place(node_selector=["zone=a"]), Code.CONFLICT, "spare_nodes=1")
    await vms.delete_vm(rig.cluster, deed(), vm("right"))
    await rig.release(vm("right"))
    assert (await place(node="n3")).changed, "whoever may run nowhere else needs no room elsewhere"
    assert await rig.store.get(rig.keys.admission()) is not None, "judged one after the other"
    await create_vm(rig.cluster, deed(), new("late", memory_mib=2500))
    board = Board(await read_board_world(rig.cluster))
    assert board.waiting[vm("late")].head[0] == "n2"
    await refused(
        places.unpin_vm(rig.cluster, deed(), vm("big")), Code.CONFLICT, "without n3, default/big would not fit"
    )
    assert (await places.unpin_vm(rig.cluster, deed(), vm("big"), ignore_spare=True)).changed


async def test_what_is_off_takes_nobodys_room_wherever_it_is_pinned(rig: Rig) -> None:
    await kept_by_one_node(rig)
    await create_vm(rig.cluster, deed(), new("off", memory_mib=3000, off=True))
    assert (await places.move_vm(rig.cluster, deed(), vm("off"), "n2", cold=False)).changed
    await refused(vms.start_vm(rig.cluster, deed(), vm("off")), Code.CONFLICT, "spare_nodes=1")
    assert (
        await places.place_vm(rig.cluster, deed(), vm("left"), Demands(priority=0, arch=""))
    ).changed is False
    assert (await places.place_vm(rig.cluster, deed(), vm("left"), Demands(priority=5))).changed


# --- changing the place


async def test_place_changes_what_is_said_and_leaves_the_guest(rig: Rig) -> None:
    sessions = await three(rig)
    await create_vm(rig.cluster, deed(), new(placement=Placement(arch="x86_64")))
    await places.place_vm(rig.cluster, deed(), HELLO, Demands(arch=""))
    await rig.claim("n1", sessions["n1"])
    placed = await places.place_vm(
        rig.cluster, deed("because"), HELLO, Demands(node_selector=["zone=b"], priority=3)
    )
    assert placed.changed
    assert placed.remark == (
        "it runs on n1 and stays there; this counts the next time it is placed"
        " (n1 would not take it any more: needs label zone=b, the node has zone=a)"
    )
    spec = await rig.spec()
    assert (spec.placement, spec.ha) == (Placement(node_selector={"zone": "b"}), Ha(priority=3))
    assert [spec.reason for spec in await rig.history()][-1] == "because"
    changes = [version.changes for version in await vm_history(rig.cluster, HELLO)]
    assert changes[1:] == [["no longer --arch x86_64"], ["--node-selector zone=b", "--priority 3"]]
    assert not (await places.place_vm(rig.cluster, deed(), HELLO, Demands(priority=3))).changed
    await refused(places.place_vm(rig.cluster, deed(), HELLO, Demands()), Code.USAGE, "no demand is given")
    await refused(places.place_vm(rig.cluster, deed(), HELLO, Demands(node="n9")), Code.NOT_FOUND, "node n9")
    await refused(places.place_vm(rig.cluster, deed(), vm("none"), Demands(priority=1)), Code.NOT_FOUND, "none")


async def test_a_running_vm_moves_only_when_told_cold(rig: Rig) -> None:
    sessions = await three(rig)
    await create_vm(rig.cluster, deed(), new())
    await rig.claim("n1", sessions["n1"])
    await refused(
        places.move_vm(rig.cluster, deed(), HELLO, "n2", cold=False),
        Code.CONFLICT, "runs on n1", "metastack vm move default/hello n2 --cold",
    )  # fmt: skip
    assert (await rig.spec()).placement == Placement()
    moved = await places.move_vm(rig.cluster, deed(), HELLO, "n2", cold=True)
    assert moved.spec.placement == Placement(node="n2", move=PinMove.COLD)
    said = await explain_vm(rig.cluster, HELLO)
    assert said.summary == "is on n1; it is to move to n2, and n2 would take it"
    # The node lets go; the VM comes up on n2.
    waits = asyncio.create_task(wait_vm(rig.cluster, HELLO, Goal.RUNNING, 20, moved.spec, None, "n2"))
    await rig.release()
    assert (await explain_vm(rig.cluster, HELLO)).chosen == "n2"
    await rig.claim("n2", sessions["n2"])
    view = await waits
    assert view is not None and view.node == "n2"
    again = await places.move_vm(rig.cluster, deed(), HELLO, "n2", cold=True)
    assert again.spec.placement.move is PinMove.STAY, "it is there"
    assert not (await places.move_vm(rig.cluster, deed(), HELLO, "n2", cold=False)).changed
    assert (await places.unpin_vm(rig.cluster, deed(), HELLO)).spec.placement == Placement()
    assert not (await places.unpin_vm(rig.cluster, deed(), HELLO)).changed


async def test_a_wait_for_a_node_is_not_over_on_another(rig: Rig) -> None:
    sessions = await three(rig)
    made = await create_vm(rig.cluster, deed(), new())
    await rig.claim("n1", sessions["n1"])
    problem = await refused(
        wait_vm(rig.cluster, HELLO, Goal.RUNNING, 0.3, made.spec, None, "n2"), Code.TIMEOUT, "not running on n2"
    )
    assert "is running on n1" in problem.message


async def test_a_move_to_where_it_does_not_fit_is_refused(rig: Rig) -> None:
    sessions = await three(rig)
    await create_vm(rig.cluster, deed(), new(memory_mib=4000))
    await rig.claim("n1", sessions["n1"])
    await create_vm(rig.cluster, deed(), new("big", memory_mib=6000))
    await rig.claim("n2", sessions["n2"], vm("big"))
    await refused(
        places.move_vm(rig.cluster, deed(), HELLO, "n2", cold=True),
        Code.CONFLICT, "node n2 would not take it: needs 4000 MiB", "metastack vm place default/hello --node",
    )  # fmt: skip
    await places.place_vm(rig.cluster, deed(), HELLO, Demands(node="n2"))
    assert (await rig.spec()).placement == Placement(node="n2"), "which does not stop it"


async def test_what_does_not_run_moves_by_its_pin(rig: Rig) -> None:
    await three(rig)
    await create_vm(rig.cluster, deed(), new(off=True))
    moved = await places.move_vm(rig.cluster, deed(), HELLO, "n2", cold=False)
    assert moved.spec.placement == Placement(node="n2")


async def test_a_vm_that_is_claimed_while_it_is_moved_runs(rig: Rig) -> None:
    """The claim is a guard: what was looked at waited for a node, what would be written is about a guest."""
    sessions = await three(rig)
    await create_vm(rig.cluster, deed(), new())

    async def claimed() -> None:
        await rig.claim("n1", sessions["n1"])

    racing = Cluster(cast(Any, Racing(rig.store, claimed)), rig.keys)
    await refused(places.move_vm(racing, deed(), HELLO, "n3", cold=False), Code.CONFLICT, "runs on n1")
    assert (await rig.spec()).placement == Placement()


# --- nodes


async def node_spec(rig: Rig, name: str) -> NodeSpec:
    entry = await rig.store.get(rig.keys.node_spec(name))
    assert entry is not None
    return decode(NodeSpec, entry.value)


async def taint(rig: Rig, name: str, *texts: str) -> bool:
    return await nodes.taint_node(rig.cluster, deed(), name, nodes.taint_changes(list(texts)))


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
    assert await nodes.drain_node(rig.cluster, deed(), "n1")
    assert not await nodes.drain_node(rig.cluster, deed(), "n1")
    await nodes.cordon_node(rig.cluster, deed(), "n1")
    assert await nodes.undrain_node(rig.cluster, deed(), "n1")
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
        await create_vm(rig.cluster, deed(), new(name))
        await rig.claim("n1", sessions["n1"], vm(name))
    await nodes.drain_node(rig.cluster, deed(), "n1")
    told: asyncio.Queue[str] = asyncio.Queue()
    waits = asyncio.create_task(drains.wait_drained(rig.cluster, "n1", 30, told.put_nowait))
    await until(told, "2 VMs left; next default/a, which n")
    await rig.release(vm("a"))
    await until(told, "1 VM left; next default/b")
    await rig.claim("n2", sessions["n2"], vm("a"))
    await rig.release(vm("b"))
    await until(told, "no VM is left on it")
    await waits


async def test_a_drain_that_is_stuck_says_which_vm_and_why(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drains, "PATIENCE_S", 0.2)
    sessions = await three(rig)
    await create_vm(rig.cluster, deed(), new("here", node="n1"))
    await rig.claim("n1", sessions["n1"], vm("here"))
    await nodes.drain_node(rig.cluster, deed(), "n1")
    problem = await refused(
        drains.wait_drained(rig.cluster, "n1", 30, lambda _: None),
        Code.FAILED, "default/here (the VM is pinned to n1 (n2 and 1 more)", "metastack node undrain n1",
    )  # fmt: skip
    assert "1 VM cannot go" in problem.message
    await places.unpin_vm(rig.cluster, deed(), vm("here"))
    late = await refused(drains.wait_drained(rig.cluster, "n1", 0.3, lambda _: None), Code.TIMEOUT, "0.3 s")
    assert "next default/here" in late.message


# --- what if


async def test_what_if(rig: Rig) -> None:
    sessions = await three(rig)
    for n in range(4):
        await create_vm(rig.cluster, deed(), new(f"v{n}", memory_mib=3000))
    await fill(rig, sessions)
    world = await read_board_world(rig.cluster)
    assert outlook.outlook(world, [], []).summary == "as it is, everything fits"
    one = outlook.outlook(world, ["n1"], [])
    assert one.fits and one.lost == ["n1"]
    assert {move.before for move in one.moves} <= {"n1"}
    two = outlook.outlook(world, ["n1", "n2"], [])
    assert not two.fits and two.left_out > 0
    assert all(move.reason for move in two.moves if move.after is None)
    more = outlook.new_nodes(world, 2, 8, 8192, {"zone": "z"})
    assert [(node.name, node.room.memory_mib, node.bridges) for node in more] == [
        ("new-1", 7168, ("br0",)),
        ("new-2", 7168, ("br0",)),
    ]
    saved = outlook.outlook(world, ["n1", "n2"], more)
    assert saved.fits and saved.added == ["new-1", "new-2"]
    assert outlook.any_loss(world, 1).fits
    assert not outlook.any_loss(world, 2).fits
    await create_vm(rig.cluster, deed(), new("waits", memory_mib=99999))
    world = await read_board_world(rig.cluster)
    now, one = outlook.outlook(world, [], []), outlook.outlook(world, ["n1"], [])
    assert now.fits and (now.left_out, now.pending_already) == (0, 1)
    assert now.summary == "as it is, nothing more would be left out; 1 VM is pending already, and would stay so"
    assert one.fits and (one.left_out, one.pending_already) == (0, 1), "the loss did not put it out"
    assert {move.name for move in one.moves if move.pending_already} == {"waits"}
    any_one = outlook.any_loss(world, 1)
    assert any_one.fits and [move.name for move in any_one.moves] == ["waits"] and any_one.pending_already == 1
    assert any_one.summary.endswith("names it; 1 VM is pending already, and would stay so")
    both = outlook.outlook(world, ["n1", "n2"], [])
    assert (both.left_out, both.pending_already) == (two.left_out, 1)
    assert f"{two.left_out} VM" in both.summary and "1 VM is pending already" in both.summary
    for wrong in (lambda: outlook.outlook(world, ["n9"], []), lambda: outlook.any_loss(world, 0)):
        with pytest.raises(Problem):
            wrong()


# --- the doctor


async def test_the_doctor_sees_what_waits_what_nobody_would_take_and_what_has_no_spare(rig: Rig) -> None:
    sessions = await three(rig, "a", "b")
    await create_vm(rig.cluster, deed(), new("runs", placement=Placement(node_selector={"zone": "a"})))
    await rig.claim("n1", sessions["n1"], vm("runs"))
    await create_vm(rig.cluster, deed(), new("waits", memory_mib=9000))

    async def said(check: str) -> dict[str, tuple[str, str]]:
        facts = await collect(rig.cluster, "0", datetime.now(UTC))
        facts.storage_why = "not asked for"
        found = [finding for finding in examine(facts) if finding.check == check]
        return {finding.object: (finding.severity.value, finding.meaning) for finding in found}

    [(severity, meaning)] = (await said("pending")).values()
    assert severity == "info", "it is young"
    assert "no node takes it: needs 9000 MiB of memory" in meaning
    assert await said("unplaceable") == {}, "room is another matter"
    assert await said("spare") == {}
    spec = await rig.spec(vm("waits"))
    await rig.put(rig.keys.vm_spec(vm("waits")), replace(spec, created="2026-01-01T00:00:00Z"))
    assert (await said("pending"))["vm default/waits"][0] == "warning"
    await nodes.label_node(rig.cluster, deed(), "n1", {"zone": "x"}, set())
    severity, meaning = (await said("unplaceable"))["vm default/runs"]
    assert severity == "warning" and "needs label zone=a" in meaning
    await taint(rig, "n1", "gone")
    await taint(rig, "n2", "gone")
    assert set(await said("unplaceable")) == {"vm default/runs", "vm default/waits"}
    await taint(rig, "n1", "gone-")
    await taint(rig, "n2", "gone-")
    await vms.delete_vm(rig.cluster, deed(), vm("waits"))
    for n in range(3):
        await create_vm(rig.cluster, deed(), new(f"v{n}", memory_mib=3000))
    await fill(rig, sessions)
    await rig.put(rig.keys.cluster(), ClusterConfig(spare_nodes=1))
    severity, meaning = (await said("spare"))["cluster"]
    assert severity == "warning" and "spare_nodes=1 does not hold: without n" in meaning
