"""Schedules: what is hinted is what the nodes' engine then does, and nobody loses a place by it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_rig import KEYS, Cluster

from metastack.core.model import (
    ClusterConfig,
    Fence,
    GroupTerm,
    Ha,
    Hint,
    NodeFacts,
    Phase,
    Placement,
    VmId,
    VmStatus,
)
from metastack.core.placement import PlacementEngine, suppose
from metastack.core.placement.schedule import losing, schedule

SPREAD = ClusterConfig(overcommit_cpu=1.0)
PACK = ClusterConfig(overcommit_cpu=1.0, weight_spread=0.0, weight_pack=1.0)
FAR = Placement(anti_affinity=(GroupTerm(labels={"app": "x"}),))


def vm(name: str) -> VmId:
    return VmId("default", name)


def fence(found: Cluster, node: str) -> None:
    found.put(KEYS.fence(node), Fence(through=1 << 41))


def tight(config: ClusterConfig = SPREAD) -> Cluster:
    """n0 is lost: two small VMs and a large one, for which there is room in one way only."""
    found = Cluster()
    found.put(KEYS.cluster(), config)
    for n in range(3):
        found.node(f"n{n}", cpus=8, memory_mib=9216)
        found.put(KEYS.node_facts(f"n{n}"), NodeFacts(name=f"n{n}", uuid=f"u{n}"))
    for name, cpus in (("small1", 2), ("small2", 2), ("large", 7)):
        found.want(name, cpus=cpus, memory_mib=512)
        found.claim(name, "n0")
    found.delete(KEYS.node_alive("n0"))
    found.engine = PlacementEngine(found.world)  # nobody missed a turn
    return found


def hint(found: Cluster, places: dict[VmId, str]) -> None:
    for name, node in places.items():
        found.put(KEYS.hint(name), Hint(uuid=f"uuid-{name.name}", node=node, by="scheduler/s1"))


def test_a_lost_node_is_planned_for_before_its_vms_wait() -> None:
    found = tight()
    assert losing(found.world) == {"n0"}
    plan = schedule(found.engine, {})
    assert (plan.ahead, plan.why) == (3, "1 more VMs fit")
    assert plan.places[vm("small1")] == plan.places[vm("small2")] != plan.places[vm("large")]
    hint(found, plan.places)
    fence(found, "n0")
    assert {name: head[0] for name, head in found.heads().items()} == {
        name.name: node for name, node in plan.places.items()
    }


def test_without_hints_the_large_one_is_left_out() -> None:
    found = tight()
    fence(found, "n0")
    assert found.heads()["large"] == ()


def test_what_nodes_do_as_well_alone_is_not_hinted() -> None:
    found = Cluster()
    found.put(KEYS.cluster(), SPREAD)
    for n in range(3):
        found.node(f"n{n}", cpus=8, memory_mib=9216)
    found.want("a", cpus=2)
    found.claim("a", "n0")
    assert schedule(found.engine, {}).ahead == 0
    found.delete(KEYS.node_alive("n0"))
    assert schedule(found.engine, {}).places == {}
    assert schedule(found.engine, {}).ahead == 1


def test_what_is_being_taken_is_left_alone() -> None:
    found = tight()
    found.want("now", cpus=2, memory_mib=512)
    [node] = {head[0] for head in found.heads().values()}
    plan = schedule(found.engine, {})
    assert vm("now") not in plan.places
    assert node in ("n1", "n2")


def test_a_hint_stays_as_long_as_it_is_as_good() -> None:
    found = tight()
    first = schedule(found.engine, {}).places
    turned = {name: {"n1": "n2", "n2": "n1"}[node] for name, node in first.items()}
    assert schedule(found.engine, turned).places == turned
    hint(found, turned)
    assert schedule(found.engine, turned).places == turned
    bad = dict.fromkeys(first, "n1")
    assert schedule(found.engine, bad).places == first


def test_what_others_hint_stands() -> None:
    found = tight()
    for name in ("small1", "small2"):
        found.put(KEYS.hint(vm(name)), Hint(uuid=f"uuid-{name}", node="n2", by="a person"))
    plan = schedule(found.engine, {})
    assert plan.places == {}, "with these the large one has a place already"
    assert plan.ahead == 1


def test_draining_nodes_come_after_lost_ones() -> None:
    found = tight()
    found.want("leaves", cpus=1)
    found.claim("leaves", "n1")
    found.wish("n1", draining=True)
    assert losing(found.world) == {"n0"}
    fence(found, "n0")
    assert losing(found.world) == {"n1"}


def test_dependent_vms_are_planned_for() -> None:
    found = Cluster()
    found.put(KEYS.cluster(), SPREAD)
    for n in range(2):
        found.node(f"n{n}", cpus=8, memory_mib=9216)
    found.want("db", cpus=1)
    found.claim("db", "n0")
    found.put(
        KEYS.vm_status(vm("db")), VmStatus(uuid="uuid-db", phase=Phase.STARTING, node="n0", session=1, epoch=1)
    )
    for name, cpus in (("s1", 2), ("s2", 2), ("large", 7)):
        found.want(name, cpus=cpus, ha=Ha(start_after=("db",)))
    found.engine = PlacementEngine(found.world)
    plan = schedule(found.engine, {})
    assert len(plan.places) == 3


def test_no_hint_names_a_deaf_node() -> None:
    found = tight()
    hearing = schedule(found.engine, {}).places
    found.engine.misses.won("n2", ("n1", "n2"))
    plan = schedule(found.engine, {})
    assert plan.places != hearing
    hint(found, plan.places)
    fence(found, "n0")
    assert all(found.heads()[name.name][0] == node for name, node in plan.places.items())
    assert all(found.heads().values()), "its turn comes after the others': the room is there"


def test_pinned_ones_need_no_hint() -> None:
    found = tight()
    found.want("small1", cpus=2, memory_mib=512, placement=Placement(node="n1"))
    assert vm("small1") not in schedule(found.engine, {}).places


node_st = st.tuples(st.integers(2, 8), st.integers(4096, 9000))
vm_st = st.tuples(st.integers(1, 6), st.integers(64, 4096), st.integers(-1, 1), st.booleans())


@settings(max_examples=150)
@given(
    st.lists(node_st, min_size=2, max_size=5), st.lists(vm_st, max_size=10), st.sampled_from([SPREAD, PACK]),
    st.dictionaries(st.integers(0, 9), st.integers(0, 5), max_size=4),
)  # fmt: skip
def test_hints_help_and_nobody_loses_a_place(
    nodes: Any, vms: Any, config: ClusterConfig, before: dict[int, int]
) -> None:
    found = Cluster()
    found.put(KEYS.cluster(), config)
    for n, (cpus, mib) in enumerate(nodes):
        found.node(f"n{n}", cpus, mib)
    for n, (cpus, mib, priority, far) in enumerate(vms):
        labels, place = ({"app": "x"}, FAR) if far else ({}, Placement())
        found.want(f"v{n}", cpus=cpus, memory_mib=mib, ha=Ha(priority=priority), labels=labels, placement=place)
        found.claim(f"v{n}", "gone")
    alone = suppose(found.world, lost=frozenset({"gone"}))
    standing = {vm(f"v{n}"): f"n{at}" for n, at in before.items()}
    plan = schedule(found.engine, standing)
    assert plan == schedule(PlacementEngine(found.world), standing)
    hint(found, plan.places)
    told = suppose(found.world, lost=frozenset({"gone"}))
    placed = {name for name, wait in told.waiting.items() if wait.head}
    assert placed >= {name for name, wait in alone.waiting.items() if wait.head}
    if plan.places:
        assert {name: told.waiting[name].head[0] for name in placed} == plan.places
        assert bool(plan.why)


@pytest.mark.parametrize("config", [SPREAD, PACK])
def test_the_same_plan_again_costs_nothing(config: ClusterConfig) -> None:
    found = tight(config)
    first = schedule(found.engine, {})
    hint(found, first.places)
    assert schedule(found.engine, first.places).places == first.places
