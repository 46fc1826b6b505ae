"""Who boots first when many have to, and what waits meanwhile."""

from __future__ import annotations

import asyncio
from pathlib import Path

from agent_rig import KEYS, Lab, lab_of, vm
from hypothesis import given
from hypothesis import strategies as st

from metastack.agent.reconcile.boot_slots import BootSlots
from metastack.core.model import ClusterConfig, Ha, NodeSpec
from metastack.core.state.codec import encode
from metastack.lab.sim.engine.loop import run


def booted(lab: Lab, node: str) -> list[tuple[str, int]]:
    """The guests that were booted, in order, with how many were booting then."""
    hypervisor, found, going = lab.hosts[node].hypervisor, [], set()
    boot = hypervisor.boot

    async def listening(spec, paused=False):
        going.add(spec.name)
        found.append((spec.name, len(going)))
        try:
            await boot(spec, paused)
        finally:
            going.discard(spec.name)

    hypervisor.boot = listening
    return found


def test_vms_of_a_dead_node_return_by_priority(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path) as lab:
            await lab.put(KEYS.cluster(), encode(ClusterConfig(boots_at_once=2)))
            for node in ("n2", "n3"):
                await lab.put(KEYS.node_spec(node), encode(NodeSpec(cordoned=True)))
            for n in range(6):
                await lab.want(f"low{n}")
            for n in range(3):
                await lab.want(f"high{n}", ha=Ha(priority=100))
            await lab.until("all on n1", lambda: len(lab.hosts["n1"].running()) == 9)
            await lab.put(KEYS.node_spec("n2"), encode(NodeSpec()))
            order = booted(lab, "n2")
            await lab.hosts["n1"].power_cut()
            await lab.until("all on n2", lambda: len(lab.hosts["n2"].running()) == 9)
            assert max(going for _, going in order) == 2
            # Two places were free before anybody knew who else would come: they went to the first in line.
            assert [name for name, _ in order][:3] == ["high0", "high1", "high2"]
            assert sorted(name for name, _ in order[3:]) == [f"low{n}" for n in range(6)]

    run(story())


def test_a_node_that_boots_many_still_stops_one(tmp_path: Path) -> None:
    async def story() -> None:
        async with lab_of(tmp_path, nodes=1) as lab:
            await lab.want("first")
            await lab.until("runs", lambda: lab.where("first"))
            lab.hosts["n1"].hypervisor.boot_s = 30.0
            for n in range(25):
                await lab.want(f"vm{n}", memory_mib=64)
            await asyncio.sleep(3)
            await lab.want("first", power="off")
            assert await lab.until("stopped", lambda: not lab.where("first"), 20) < 5

    run(story())


@given(st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["enter", "done", "withdraw"])), max_size=60))
def test_places_are_never_exceeded_and_nobody_is_forgotten(steps: list[tuple[int, str]]) -> None:
    woken: list = []
    boots = BootSlots(lambda: 2, woken.append)
    going: dict = {}
    waiting: set = set()

    def enter(n: int) -> None:
        name = vm(f"vm{n}")
        if boots.enter(name, n % 3, n):
            waiting.discard(name)
            place = boots.place(name)
            place.__enter__()
            going[name] = place
        else:
            waiting.add(name)

    for n, what in steps:
        name = vm(f"vm{n}")
        if what == "enter" and name not in going:
            enter(n)
        elif what == "done" and name in going:
            going.pop(name).__exit__(None, None, None)
        elif what == "withdraw" and name not in going:
            boots.withdraw(name)
            waiting.discard(name)
        while woken:  # whoever is called looks again
            called = woken.pop()
            if called not in going:
                enter(int(called.name[2:]))
        assert len(going) <= 2
        assert not waiting or len(going) == 2


def test_a_vm_that_waits_in_vain_holds_no_other() -> None:
    """A VM that was taken over by another node is never looked at again, unless somebody asks for it."""
    woken: list = []
    boots = BootSlots(lambda: 1, woken.append)
    assert boots.enter(vm("a"), 0, 1)
    assert not boots.enter(vm("gone"), 9, 1)
    with boots.place(vm("a")):
        pass
    assert woken == [vm("gone")]
    woken.clear()
    assert not boots.enter(vm("b"), 0, 2)
    assert woken == [vm("gone")]
    boots.withdraw(vm("gone"))
    assert woken[-1] == vm("b")
    assert boots.enter(vm("b"), 0, 2)
