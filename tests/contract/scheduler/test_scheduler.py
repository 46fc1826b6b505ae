"""Schedulers on the twin and on a real etcd: one is at work, its hints live and die with its term."""

from __future__ import annotations

import asyncio

from scheduler_rig import Backend, kill, vm

from metastack.commands.capacity.balance import scheduler_view
from metastack.commands.reading import read_engine_state
from metastack.core.model import ClusterConfig, Fence, Hint, Leader, VmSpec
from metastack.core.placement import PlacementEngine
from metastack.core.protocol.leader_terms import advise, stand
from metastack.core.transaction import Committed, Delete, Lost, Transaction


def spec(name: str, cpus: int) -> VmSpec:
    return VmSpec(
        project="default", name=name, uuid=f"uuid-{name}", image="i", image_uuid="i", volume_uuid=f"v-{name}",
        cpus=cpus, memory_mib=512, disk_bytes=1,
    )  # fmt: skip


async def tight(backend: Backend) -> int:
    """Two small VMs and a large one run on n0; the others have capacity for them in one way only."""
    rig = backend.rig
    await rig.put(rig.keys.cluster(), ClusterConfig(overcommit_cpu=1.0))
    session = {name: await rig.node(name, memory_mib=9216, cpus=8) for name in ("n0", "n1", "n2")}["n0"]
    for name, cpus in (("small1", 2), ("small2", 2), ("large", 7)):
        await rig.put(rig.keys.vm_spec(vm(name)), spec(name, cpus))
        await rig.claim("n0", session, vm(name))
    return session


async def test_of_two_one_is_at_work_and_the_other_follows(backend: Backend) -> None:
    await tight(backend)
    one, two = backend.scheduler("s1"), backend.scheduler("s2")
    async with backend.running(one) as [first]:
        term = await backend.elected("s1")
        async with backend.running(two):
            await backend.rig.lose("n0")
            await backend.until("hints", backend.hints)
            assert await backend.leader() == "s1"
            assert {hint.by for hint in (await backend.hints()).values()} == {"scheduler/s1"}
            view = await scheduler_view(backend.rig.cluster)
            assert (view.leader, len(view.hints)) == ("s1", 3)
            await kill(first)
            await backend.elected("s2", term.revision)

            async def told_by_s2() -> bool:
                return {hint.by for hint in (await backend.hints()).values()} == {"scheduler/s2"}

            await backend.until("s2 hints", told_by_s2)


async def test_hints_are_what_the_nodes_then_do(backend: Backend) -> None:
    session = await tight(backend)
    scheduler = backend.scheduler("s1")
    async with backend.running(scheduler):
        await backend.rig.lose("n0")
        await backend.until("hints", backend.hints)
        await backend.rig.put(backend.keys.fence("n0"), Fence(through=session))
        engine = PlacementEngine(await read_engine_state(backend.rig.cluster))
        hints = await backend.hints()
        assert len(hints) == 3
        assert {one.name: wait.head[0] for one, wait in engine.waiting.items()} == {
            name: hint.node for name, hint in hints.items()
        }
        for name, hint in hints.items():
            await backend.rig.claim(hint.node, session + 1, vm(name))

        async def none() -> bool:
            return not await backend.hints()

        await backend.until("what was followed is withdrawn", none)


async def test_hints_end_with_their_scheduler(backend: Backend) -> None:
    await tight(backend)
    scheduler = backend.scheduler("s1")
    async with backend.running(scheduler) as [task]:
        await backend.rig.lose("n0")
        await backend.until("hints", backend.hints)
        await kill(task)

        async def none() -> bool:
            return not await backend.hints() and not await backend.leader()

        await backend.until("hints and leader are gone", none)
        engine = PlacementEngine(await read_engine_state(backend.rig.cluster))
        assert not engine.waiting, "n0 is not fenced, and nobody waits for a scheduler either"


async def test_a_stopping_scheduler_resigns_at_once(backend: Backend) -> None:
    await tight(backend)
    scheduler, stop = backend.scheduler("s1", ttl_s=60), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(scheduler.run(stop))
        await backend.elected("s1")
        await backend.rig.lose("n0")
        await backend.until("hints", backend.hints)
        stop.set()
    assert await backend.leader() == ""
    assert await backend.hints() == {}


async def test_the_deposed_write_nothing(backend: Backend) -> None:
    await tight(backend)
    scheduler = backend.scheduler("s1")
    async with backend.running(scheduler):
        term = await backend.elected("s1")
        late = advise(backend.keys, term, {vm("large"): Hint(uuid="uuid-large", node="n1")}, ())
        assert isinstance(await backend.rig.store.commit(late), Committed), "its own term"
        deposed = Transaction(name="test", guards=(), effects=(Delete(backend.keys.leader()),))
        await backend.rig.store.commit(deposed)
        assert isinstance(await backend.rig.store.commit(late), Lost)
        # It has something to say, is refused, and stands again.
        await backend.rig.lose("n0")
        await backend.elected("s1", term.revision)
        assert isinstance(await backend.rig.store.commit(late), Lost), "that is another term"


async def test_a_leader_that_nobody_hears_of_is_no_obstacle(backend: Backend) -> None:
    """Somebody's key under a lease that ends: the next one stands then."""
    lease = await backend.rig.store.grant(2)
    await backend.rig.store.commit(stand(backend.keys, Leader(name="ghost"), lease.id))
    async with backend.running(backend.scheduler("s1")):
        await backend.elected("s1")
