"""A VM that a node gave back: what explain, the doctor and ``vm start`` make of it, on both stores."""

from __future__ import annotations

from datetime import UTC, datetime

from commands_rig import Rig, request
from places_rig import new, three, vm

from metastack.commands.doctor import examine
from metastack.commands.doctor.facts import collect
from metastack.commands.vm import change as vms
from metastack.commands.vm.create import create_vm
from metastack.commands.vm.explain import explain_vm
from metastack.core.model import Penalty, Phase, VmSpec
from metastack.core.state.cluster_state import seen


async def penalise(rig: Rig, node: str) -> None:
    entry = await rig.store.get(rig.keys.vm_spec(vm("one")))
    assert entry is not None
    spec = seen(VmSpec, entry)
    record = Penalty(uuid=spec.ok.uuid, spec_mod=spec.mod, reason="QEMU exits", until="2026-01-01T00:00:00Z")
    await rig.put(rig.keys.penalty(vm("one"), node), record)


async def given_back(rig: Rig) -> list[tuple[str, str]]:
    facts = await collect(rig.cluster, "1", datetime(2026, 1, 1, tzinfo=UTC))
    facts.storage_why = "not asked for"
    return [(found.object, found.meaning) for found in examine(facts) if found.check == "given_back"]


async def test_the_failing_node_is_named_until_the_vm_starts(rig: Rig) -> None:
    await three(rig)
    await create_vm(rig.cluster, request(), new("one"))
    first = (await explain_vm(rig.cluster, vm("one"))).chosen
    assert first is not None
    await penalise(rig, first)
    told = await explain_vm(rig.cluster, vm("one"))
    assert told.chosen not in (None, first)
    (said,) = [node for node in told.nodes if node.node == first]
    assert said.reasons == [
        "failed to start here: QEMU exits; until 2026-01-01T00:00:00Z, or `metastack vm start`"
    ]
    ((object, meaning),) = await given_back(rig)
    assert object == f"node {first}"
    assert "could not start" in meaning and "QEMU exits" in meaning

    before = await rig.spec(vm("one"))
    started = await vms.start_vm(rig.cluster, request(), vm("one"))
    assert started.changed
    assert started.spec.run == before.run, "a guest that runs by now is not started anew"
    assert (await explain_vm(rig.cluster, vm("one"))).chosen == first
    assert not await given_back(rig)


async def test_vm_start_retries_a_failed_vm(rig: Rig) -> None:
    sessions = await three(rig)
    await create_vm(rig.cluster, request(), new("one"))
    await rig.claim("n1", sessions["n1"], vm("one"), phase=Phase.RUNNING)
    await penalise(rig, "n2")
    assert not (await vms.start_vm(rig.cluster, request(), vm("one"))).changed, "it runs"
    await rig.status("n1", sessions["n1"], Phase.FAILED, vm("one"), message="cannot start on n1: QEMU exits")
    started = await vms.start_vm(rig.cluster, request(), vm("one"))
    assert started.changed
    assert (await rig.events())[-1].what == "vm.start"
