"""Reports about places: explain, dry run, what if, the doctor; on both stores."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from commands_rig import Rig, request
from msgspec.structs import replace
from places_rig import fill, new, refused, taint, three, vm

from metastack.commands.capacity import whatif as outlook
from metastack.commands.doctor import examine
from metastack.commands.doctor.facts import collect
from metastack.commands.node import change as nodes
from metastack.commands.problem import Code, Problem
from metastack.commands.reading import read_engine_state
from metastack.commands.vm import change as vms
from metastack.commands.vm import place as places
from metastack.commands.vm.create import create_vm, plan_vms
from metastack.commands.vm.explain import equal_nodes_words, explain_plan, explain_vm
from metastack.core.model import ClusterConfig, GroupTerm, Ha, Hint, Phase, Placement
from metastack.core.state.keys import Kind
from metastack.core.transaction import Put


async def test_explain_says_what_every_node_says(rig: Rig) -> None:
    sessions = await three(rig)
    far = Placement(anti_affinity=(GroupTerm(labels={"app": "web"}, topology="zone"),))
    await create_vm(rig.cluster, request(), new("one", labels={"app": "web"}, placement=far))
    await rig.claim("n1", sessions["n1"], vm("one"))
    await create_vm(rig.cluster, request(), new("two", labels={"app": "web"}, placement=far))
    await nodes.cordon_node(rig.cluster, request(), "n3")
    two = await explain_vm(rig.cluster, vm("two"))
    assert (two.chosen, two.node, two.line, two.phase) == ("n2", None, 1, "pending")
    assert two.summary == "pending, n2 is to claim it"
    assert {said.node: said.fits for said in two.nodes} == {"n1": False, "n2": True, "n3": False}
    best = two.nodes[0]
    assert (best.node, best.rank, best.chosen, best.reasons) == ("n2", 1, True, [])
    assert best.score is not None and set(best.parts) == {"spread", "groups"}
    why = {said.node: said.reasons for said in two.nodes}
    assert why["n3"] == ["the node is cordoned"]
    assert why["n1"] == ["zone a has 1 with app=web (anti-affinity)"]
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
    assert one.summary == "is on n1; no node ranks higher"


async def test_explain_says_why_it_waits_and_why_it_stays(rig: Rig) -> None:
    sessions = await three(rig)
    await create_vm(rig.cluster, request(), new("db", network="br0", ha=Ha(ready_port=5432)))
    await create_vm(rig.cluster, request(), new("app", ha=Ha(start_after=("db",)), memory_mib=7000))
    app = await explain_vm(rig.cluster, vm("app"))
    assert app.held == "starts after default/db, which does not run yet"
    assert app.summary == f"pending: {app.held}"
    assert [(gate.vm, gate.phase, gate.up, gate.port) for gate in app.gates] == [
        ("default/db", "pending", False, 5432)
    ]
    assert app.line == 2
    await rig.claim("n1", sessions["n1"], vm("db"))
    app = await explain_vm(rig.cluster, vm("app"))
    assert app.held is None and app.gates[0].up
    await rig.put(rig.keys.hint(vm("app")), Hint(uuid=app.uuid, node="n3", by="s1"))
    app = await explain_vm(rig.cluster, vm("app"))
    assert app.hint is not None and (app.hint.node, app.hint.honoured) == ("n3", True)
    assert app.chosen == "n3"
    await nodes.cordon_node(rig.cluster, request(), "n1")
    db = await explain_vm(rig.cluster, vm("db"))
    assert db.summary == ("is on n1 and stays there, though n1 no longer fits: the node is cordoned")
    assert [(said.node, said.here) for said in db.nodes if said.chosen] == [("n1", True)]
    await nodes.drain_node(rig.cluster, request(), "n1")
    assert "the node is draining, and n" in (await explain_vm(rig.cluster, vm("db"))).summary
    await vms.stop_vm(rig.cluster, request(), vm("app"))
    assert (await explain_vm(rig.cluster, vm("app"))).summary.startswith("is stopped; if it starts now, n")
    await create_vm(rig.cluster, request(), new("huge", memory_mib=99999))
    huge = await explain_vm(rig.cluster, vm("huge"))
    assert huge.chosen is None
    assert huge.summary.startswith("pending, no node fits: needs 99999 MiB of memory")
    assert "(too large even for an empty node)" in huge.summary
    await refused(explain_vm(rig.cluster, vm("none")), Code.NOT_FOUND, "default/none")
    await rig.write(Put(rig.keys.vm_spec(vm("db")), b'{"v":9}'))
    await refused(explain_vm(rig.cluster, vm("db")), Code.FAILED, "cannot be read")


async def test_a_dry_run_writes_nothing_and_says_what_would_be(rig: Rig) -> None:
    await three(rig)
    before = await rig.store.list(*rig.keys.prefixes(Kind))
    news = [new(name, memory_mib=6000) for name in ("a", "b", "c", "d")]
    said = await explain_plan(rig.cluster, request(), await plan_vms(rig.cluster, request(), news))
    assert {view.chosen for view in said[:3]} == {"n1", "n2", "n3"}, "each counts those before it"
    assert said[3].chosen is None
    assert said[2].summary == f"would start on {said[2].chosen}", "no other has the room"
    assert "the UUIDs that the VMs get decide" in equal_nodes_words(said)
    [one] = await explain_plan(rig.cluster, request(), await plan_vms(rig.cluster, request(), news[:1]))
    assert equal_nodes_words([one]) == "", "its own answer says it"
    large = [new(f"l{n}", memory_mib=99_999) for n in range(2)]
    none = await explain_plan(rig.cluster, request(), await plan_vms(rig.cluster, request(), large))
    assert equal_nodes_words(none) == "", "no node takes any"
    first, second = sorted({"n1", "n2", "n3"} - {one.chosen})
    equal = f"{first} or {second}: the UUID that the VM gets decides"
    assert one.summary == f"would start on {one.chosen} or, equally good, on {equal}"
    assert said[3].summary.startswith("no node fits: needs 6000 MiB of memory")
    after = await rig.store.list(*rig.keys.prefixes(Kind))
    assert after.entries == before.entries


async def test_what_if(rig: Rig) -> None:
    sessions = await three(rig)
    for n in range(4):
        await create_vm(rig.cluster, request(), new(f"v{n}", memory_mib=3000))
    await fill(rig, sessions)
    world = await read_engine_state(rig.cluster)
    assert outlook.outlook(world, [], []).summary == "at present, everything fits"
    one = outlook.outlook(world, ["n1"], [])
    assert one.fits and one.lost == ["n1"]
    assert one.summary.endswith("would start on another node")
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
    await create_vm(rig.cluster, request(), new("waits", memory_mib=99999))
    world = await read_engine_state(rig.cluster)
    now, one = outlook.outlook(world, [], []), outlook.outlook(world, ["n1"], [])
    assert now.fits and (now.left_out, now.pending_already) == (0, 1)
    assert (
        now.summary == "at present, no other VM would be left without a node; "
        "1 VM is already pending and would stay pending"
    )
    assert one.fits and (one.left_out, one.pending_already) == (0, 1), "the loss did not put it out"
    assert {move.name for move in one.moves if move.pending_already} == {"waits"}
    any_one = outlook.any_loss(world, 1)
    assert any_one.fits and [move.name for move in any_one.moves] == ["waits"] and any_one.pending_already == 1
    assert any_one.summary.endswith("names them; 1 VM is already pending and would stay pending")
    both = outlook.outlook(world, ["n1", "n2"], [])
    assert (both.left_out, both.pending_already) == (two.left_out, 1)
    assert f"{two.left_out} VM" in both.summary and "1 VM is already pending" in both.summary
    large = outlook.outlook(world, [], outlook.new_nodes(world, 1, 64, 200_000, {}))
    assert large.summary == "with 1 more, everything fits; 1 pending VM would start"
    for wrong in (
        lambda: outlook.outlook(world, ["n9"], []),
        lambda: outlook.any_loss(world, 0),
        lambda: outlook.any_loss(world, 4),
    ):
        with pytest.raises(Problem):
            wrong()


async def test_whatif_names_vms_that_wait_for_another_vm(rig: Rig) -> None:
    """Capacity is not all: app and top run on n1, too, and start after db, which may run nowhere else."""
    sessions = await three(rig)
    await create_vm(rig.cluster, request(), new("db", node="n1", network="br0", ha=Ha(ready_port=5432)))
    await create_vm(rig.cluster, request(), new("app", node="n1", ha=Ha(start_after=("db",))))
    await create_vm(rig.cluster, request(), new("top", node="n1", ha=Ha(start_after=("app",))))
    for name in ("db", "app", "top"):
        await rig.claim("n1", sessions["n1"], vm(name))
    for name in ("app", "top"):
        await places.unpin_vm(rig.cluster, request(), vm(name))
    lost = outlook.outlook(await read_engine_state(rig.cluster), ["n1"], [])
    assert not lost.fits and lost.left_out == 3
    assert {move.name: move.reason for move in lost.moves if move.name != "db"} == {
        "app": "starts after default/db, which fits no node",
        "top": "starts after default/app, which would not start",
    }
    await places.unpin_vm(rig.cluster, request(), vm("db"))
    assert outlook.outlook(await read_engine_state(rig.cluster), ["n1"], []).left_out == 0
    # Nothing is lost, and the port stays silent.
    await rig.release(vm("app"))
    await rig.status("n1", sessions["n1"], Phase.RUNNING, vm("db"), ready=False)
    now = outlook.outlook(await read_engine_state(rig.cluster), [], [])
    assert (now.fits, now.pending_already) == (True, 1)
    assert [(move.name, move.after, move.reason) for move in now.moves] == [
        ("app", None, "starts after default/db, whose readiness port does not answer")
    ]


async def test_doctor_sees_pending_unplaceable_and_unspared_vms(rig: Rig) -> None:
    sessions = await three(rig, "a", "b")
    await create_vm(rig.cluster, request(), new("runs", placement=Placement(node_selector={"zone": "a"})))
    await rig.claim("n1", sessions["n1"], vm("runs"))
    await create_vm(rig.cluster, request(), new("waits", memory_mib=9000))

    async def said(check: str) -> dict[str, tuple[str, str]]:
        facts = await collect(rig.cluster, "0", datetime.now(UTC))
        facts.storage_why = "not asked for"
        found = [finding for finding in examine(facts) if finding.check == check]
        return {finding.object: (finding.severity.value, finding.meaning) for finding in found}

    [(severity, meaning)] = (await said("pending")).values()
    assert severity == "info", "it is young"
    assert "no node fits: needs 9000 MiB of memory" in meaning
    assert list(await said("unplaceable")) == ["vm default/waits"]
    assert "(too large even for an empty node)" in (await said("unplaceable"))["vm default/waits"][1]
    await create_vm(rig.cluster, request(), new("late", memory_mib=6000))
    await rig.claim("n1", sessions["n1"], vm("late"))
    assert list(await said("unplaceable")) == ["vm default/waits"], "what others use is another matter"
    await vms.delete_vm(rig.cluster, request(), vm("late"))
    await rig.release(vm("late"))
    assert await said("spare") == {}
    spec = await rig.spec(vm("waits"))
    await rig.put(rig.keys.vm_spec(vm("waits")), replace(spec, created="2026-01-01T00:00:00Z"))
    assert (await said("pending"))["vm default/waits"][0] == "warning"
    await nodes.label_node(rig.cluster, request(), "n1", {"zone": "x"}, set())
    severity, meaning = (await said("unplaceable"))["vm default/runs"]
    assert severity == "warning" and "needs label zone=a" in meaning
    await taint(rig, "n1", "gone")
    await taint(rig, "n2", "gone")
    assert set(await said("unplaceable")) == {"vm default/runs", "vm default/waits"}
    await taint(rig, "n1", "gone-")
    await taint(rig, "n2", "gone-")
    await vms.delete_vm(rig.cluster, request(), vm("waits"))
    for n in range(3):
        await create_vm(rig.cluster, request(), new(f"v{n}", memory_mib=3000))
    await fill(rig, sessions)
    await rig.put(rig.keys.cluster(), ClusterConfig(spare_nodes=1))
    severity, meaning = (await said("spare"))["cluster"]
    assert severity == "warning" and "spare_nodes=1 is not met: without n" in meaning
    await rig.put(rig.keys.cluster(), ClusterConfig(spare_nodes=3))
    assert "nodes, but only 2 are up" in (await said("spare"))["cluster"][1]


async def test_doctor_sees_vms_that_a_group_rule_keeps_away(rig: Rig) -> None:
    sessions = await three(rig, "a", "b")
    apart = Placement(anti_affinity=(GroupTerm(labels={"app": "db"}),))
    for n in (1, 2):
        await create_vm(rig.cluster, request(), new(f"db{n}", labels={"app": "db"}, placement=apart))
        await rig.claim(f"n{n}", sessions[f"n{n}"], vm(f"db{n}"))

    async def said() -> dict[str, str]:
        facts = await collect(rig.cluster, "0", datetime.now(UTC))
        facts.storage_why = "not asked for"
        return {found.object: found.meaning for found in examine(facts) if found.check == "unplaceable"}

    assert await said() == {}, "each would come back to where it is"
    await taint(rig, "n1", "old")
    found = await said()
    assert set(found) == {"vm default/db1"}
    assert "runs on n1, but neither n1 nor another node would accept it now: " in found["vm default/db1"]
    for why in ("does not tolerate the taint old", "1 with app=db"):
        assert why in found["vm default/db1"]
    await rig.node("n3")
    assert await said() == {}, "there is a place"
