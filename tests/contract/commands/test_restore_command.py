"""Letting a restored etcd be used: what is told, and what one transaction does, on both stores."""

from __future__ import annotations

import pytest
from commands_rig import HELLO, Rig, request
from msgspec.structs import replace

from metastack import __version__
from metastack.commands.cluster.restore import look_at_restore, restore_cluster, still_waiting
from metastack.commands.cluster.status import cluster_view
from metastack.commands.doctor import examine
from metastack.commands.doctor.facts import collect
from metastack.commands.problem import Problem
from metastack.commands.reading import EVERYTHING, read_world
from metastack.commands.vm.change import NewVm, create_vm, restart_vm
from metastack.core.model import Generation, NodeFacts, Phase, Refusal, Running, VmStatus
from metastack.core.state.cluster_state import ClusterState
from metastack.core.transaction import Put


async def world_of(rig: Rig) -> ClusterState:
    return await read_world(rig.cluster, rig.keys.prefixes(EVERYTHING))


async def refuse(rig: Rig, name: str, generation: int = 0, *running: Running) -> None:
    told = Refusal(
        name=name,
        uuid=f"uuid-{name}",
        why="another etcd",
        storage_addresses=(f"10.0.0.{name[1:]}",),
        generation=generation,
        running=running,
    )
    await rig.put(rig.keys.refusal(name), told)


async def claimed(rig: Rig) -> tuple[str, int]:
    """vm hello, claimed by n1; its uuid and epoch."""
    await rig.image()
    session = await rig.node("n1")
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny"))
    await rig.claim("n1", session)
    claim = (await world_of(rig)).claim(HELLO)
    assert claim is not None
    return claim.ok.uuid, claim.ok.epoch


async def test_a_restore_says_what_runs_on_and_what_ends(rig: Rig) -> None:
    uuid, epoch = await claimed(rig)
    await rig.lose("n1")
    await rig.node("n2")
    await refuse(rig, "n1", 0, Running(vm="default/hello", uuid=uuid, epoch=epoch))
    await refuse(rig, "n3", 4, Running(vm="default/hello", uuid=uuid, epoch=epoch + 1))
    plan = await look_at_restore(rig.cluster)
    assert (plan.before, plan.generation) == (0, 5)  # above all that anybody knows
    assert plan.runs_on == ["default/hello on n1"]
    assert plan.ends == ["default/hello on n3"]
    assert plan.unaware == ["n2"]
    assert plan.waits_for == ["n1", "n2", "n3"]
    assert (await world_of(rig)).generation == 0  # it only looked


async def test_a_restore_ends_every_session_and_waits_for_everybody(rig: Rig) -> None:
    await rig.node("n1")
    await rig.node("n2")
    await refuse(rig, "n9")
    view = await restore_cluster(rig.cluster, request("the backup of last night"))
    world = await world_of(rig)
    assert world.generation == view.generation == 1
    assert [world.alive(name) for name in ("n1", "n2")] == [None, None]
    unknown = world.facts("n9")
    assert unknown is not None  # the backup did not know it
    assert unknown.ok.storage_addresses == ("10.0.0.9",)
    assert await still_waiting(rig.cluster) == ("n1", "n2", "n9")
    assert any("no VM starts until n1, n2, n9 are back or fenced" in p for p in cluster_view(world).problems)
    (event,) = [e for e in await rig.events() if e.what == "cluster.restore"]
    assert event.reason == "the backup of last night"
    await rig.put(rig.keys.node_facts("n1"), NodeFacts(name="n1", uuid="uuid-n1", generation=1))
    assert await still_waiting(rig.cluster) == ("n2", "n9")
    assert (await restore_cluster(rig.cluster, request("once more"))).generation == 2


async def test_a_restore_wants_a_reason_and_a_readable_generation(rig: Rig) -> None:
    with pytest.raises(Problem, match="needs a reason"):
        await restore_cluster(rig.cluster, request(""))
    await rig.write(Put(rig.keys.generation(), b"{"))
    with pytest.raises(Problem, match="cannot be read"):
        await restore_cluster(rig.cluster, request("why"))


async def test_status_and_doctor_name_refusing_and_missing_nodes(rig: Rig) -> None:
    from datetime import UTC, datetime

    await rig.put(rig.keys.generation(), Generation(generation=1))
    await rig.put(rig.keys.node_facts("n1"), NodeFacts(name="n1", uuid="uuid-n1"))
    await refuse(rig, "n2")
    problems = cluster_view(await world_of(rig)).problems
    assert problems[0] == "node n2 rejects this etcd: another etcd"
    facts = await collect(rig.cluster, __version__, datetime(2026, 1, 1, tzinfo=UTC))
    found = [(f.severity.value, f.object) for f in examine(facts) if f.check == "restored"]
    assert found == [("error", "node n2"), ("error", "node n1")]


async def test_a_restart_after_a_restore_raises_the_run(rig: Rig) -> None:
    """The spec is of before the last restart, its guest is not: the next one must be a restart all the same."""
    await rig.image()
    await create_vm(rig.cluster, request(), NewVm(vm=HELLO, image="tiny", network="none"))
    session = await rig.node("n1")
    await rig.claim("n1", session)
    spec = await rig.spec()
    status = VmStatus(
        uuid=spec.uuid, phase=Phase.RUNNING, node="n1", session=session, epoch=0, run=spec.run + 2
    )
    await rig.put(rig.keys.vm_status(HELLO), status)
    assert (await restart_vm(rig.cluster, request(), HELLO)).spec.run == spec.run + 3
    await rig.put(rig.keys.vm_status(HELLO), replace(status, uuid="another", run=77))
    assert (await restart_vm(rig.cluster, request(), HELLO)).spec.run == spec.run + 4
