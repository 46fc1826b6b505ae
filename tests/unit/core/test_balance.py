"""Rebalancing plans: every move can be made, gains, and is bounded; the plan is the same for all."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from placement_rig import KEYS, Cluster

from metastack.core.model import (
    Claim,
    ClusterConfig,
    Effect,
    GroupTerm,
    Phase,
    Placement,
    SpreadTerm,
    Taint,
    VmId,
    VmStatus,
)
from metastack.core.placement import PlacementEngine
from metastack.core.placement.balance import Balance, balance
from metastack.core.placement.explain import score

PACK = ClusterConfig(weight_spread=0.0, weight_pack=1.0, overcommit_cpu=1.0)
SPREAD = ClusterConfig(overcommit_cpu=1.0)
RULES = {
    "": Placement(),
    "far": Placement(anti_affinity=(GroupTerm(labels={"app": "x"}),)),
    "even": Placement(spread=(SpreadTerm(labels={"app": "x"}, topology="zone"),)),
    "near": Placement(affinity=(GroupTerm(labels={"app": "x"}, topology="zone"),)),
    "soft": Placement(affinity=(GroupTerm(labels={"app": "x"}, required=False),)),
    "pinned": Placement(node="n0"),
}
node_st = st.tuples(st.integers(2, 16), st.integers(4096, 16384), st.sampled_from("ab"))
vm_st = st.tuples(st.integers(1, 4), st.integers(64, 4096), st.integers(0, 7), st.sampled_from(sorted(RULES)))
cluster_st = st.tuples(st.lists(node_st, min_size=2, max_size=6), st.lists(vm_st, max_size=14))


def run(found: Cluster, name: str, node: str, phase: Phase = Phase.RUNNING) -> None:
    found.claim(name, node)
    status = VmStatus(uuid=f"uuid-{name}", phase=phase, node=node, session=1, epoch=1)
    found.put(KEYS.vm_status(VmId("default", name)), status)


def cluster_of(nodes: Any, vms: Any, config: ClusterConfig, shuffled: Any = None) -> Cluster:
    """Every VM runs on the node of its number, where that takes it at all."""
    found = Cluster()
    found.put(KEYS.cluster(), config)
    numbered = list(enumerate(nodes))
    if shuffled is not None:
        shuffled.shuffle(numbered)
    for n, (cpus, mib, zone) in numbered:
        found.node(f"n{n}", cpus, mib)
        found.wish(f"n{n}", labels={"zone": zone})
    for n, (cpus, mib, _, rule) in enumerate(vms):
        labels = {"app": "x"} if n % 2 else {}
        found.want(f"v{n}", cpus=cpus, memory_mib=mib, labels=labels, placement=RULES[rule])
    for n, (_, _, at, _) in enumerate(vms):
        node = f"n{at % len(nodes)}"
        wait = found.engine.waiting[VmId("default", f"v{n}")]
        if found.engine.fits(wait.vm, node):
            found.delete(KEYS.vm_spec(wait.vm))
        else:
            run(found, f"v{n}", node)
    return found


def held_rules(found: Cluster) -> set[VmId]:
    """VMs whose hard group rules hold where they are."""
    engine, fine = PlacementEngine(found.world), set()
    for vm, claim in found.world.claims():
        wish = found.world.spec(vm)
        assert claim.record is not None and wish is not None
        back = engine.without(vm)
        engine.refusals(wish.ok, engine.nodes[claim.record.node])
        if not engine.groups.refusals(wish.ok, engine.nodes[claim.record.node]):
            fine.add(vm)
        back()
    return fine


def check_moves(found: Cluster, plan: Balance, min_gain: float) -> None:
    """Make the moves one by one, on an engine made again each time, as a live migration would."""
    for move in plan.moves:
        engine = PlacementEngine(found.world)
        wish = found.world.spec(move.vm)
        assert wish is not None and not wish.ok.placement.node
        assert engine.placed_on(move.vm) == move.before != move.after
        back = engine.without(move.vm)
        assert engine.refusals(wish.ok, engine.nodes[move.after]) == ()
        assert score(engine, wish.ok, engine.nodes[move.after]) == move.score_after
        assert score(engine, wish.ok, engine.nodes[move.before]) == move.score_before
        back()
        assert move.gain >= min_gain > 0
        before = held_rules(found)
        run(found, move.vm.name, move.after)
        assert held_rules(found) >= before, move


@settings(max_examples=150)
@given(cluster_st, st.sampled_from([SPREAD, PACK]), st.integers(0, 6), st.sampled_from([0.01, 0.05, 0.3]))
def test_every_move_can_be_made_gains_and_is_bounded(
    many: Any, config: ClusterConfig, most: int, least: float
) -> None:
    found = cluster_of(*many, config)
    plan = balance(found.world, max_moves=most, min_gain=least)
    assert len(plan.moves) <= most
    assert len({move.vm for move in plan.moves}) == len(plan.moves)
    check_moves(found, plan, least)
    if plan.before.aim == "spread":
        assert all(move.imbalance_after <= move.imbalance_before for move in plan.moves)
        assert plan.after.stdev_share <= plan.before.stdev_share
    else:
        emptied = {move.empties for move in plan.moves}
        assert plan.after.empty_nodes == plan.before.empty_nodes + len(emptied)
    again = balance(found.world, max_moves=most, min_gain=least)
    assert again.before == plan.after, "what the plan says will be is what is, once it is done"


@settings(max_examples=60)
@given(cluster_st, st.sampled_from([SPREAD, PACK]), st.randoms())
def test_the_plan_is_the_same_on_every_node(many: Any, config: ClusterConfig, random: Any) -> None:
    one = balance(cluster_of(*many, config).world, max_moves=50, min_gain=0.01)
    assert one == balance(cluster_of(*many, config).world, max_moves=50, min_gain=0.01)
    other = cluster_of(*many, config, random)
    assert one.moves == balance(other.world, max_moves=50, min_gain=0.01).moves


@settings(max_examples=60)
@given(cluster_st, st.sampled_from([SPREAD, PACK]))
def test_a_bounded_plan_starts_the_whole_plan(many: Any, config: ClusterConfig) -> None:
    found = cluster_of(*many, config)
    whole = balance(found.world, max_moves=1000, min_gain=0.01)
    assert not whole.bounded
    half = balance(found.world, max_moves=len(whole.moves) // 2, min_gain=0.01)
    if config is SPREAD:
        assert half.moves == whole.moves[: len(half.moves)]
        assert len(half.moves) == len(whole.moves) // 2
        assert half.bounded == (len(half.moves) < len(whole.moves))


def test_an_empty_node_gets_its_share() -> None:
    found = Cluster()
    found.put(KEYS.cluster(), SPREAD)
    for n in range(3):
        found.node(f"n{n}", cpus=8, memory_mib=9216)
    for n in range(4):
        found.want(f"v{n}", cpus=2, memory_mib=1024)
        run(found, f"v{n}", f"n{n % 2}")
    plan = balance(found.world, max_moves=10, min_gain=0.05)
    [move] = plan.moves
    assert (move.before, move.after) == ("n0", "n2")
    assert (move.score_before, move.score_after) == (0.5, 0.75)
    assert (plan.before.stdev_share, plan.after.stdev_share) == (move.imbalance_before, move.imbalance_after)
    assert balance(found.world, max_moves=10, min_gain=0.3).moves == ()
    bounded = balance(found.world, max_moves=0, min_gain=0.05)
    assert (bounded.moves, bounded.bounded) == ((), True)
    assert bounded.after == bounded.before


def test_packing_empties_whole_nodes_or_leaves_them() -> None:
    found = Cluster()
    found.put(KEYS.cluster(), PACK)
    for n in range(3):
        found.node(f"n{n}", cpus=8, memory_mib=9216)
    for name, node in (("a", "n0"), ("b", "n0"), ("c", "n1"), ("d", "n2"), ("e", "n2")):
        found.want(name, cpus=2, memory_mib=1024)
        run(found, name, node)
    plan = balance(found.world, max_moves=10, min_gain=0.01)
    assert [(m.vm.name, m.before, m.after, m.empties) for m in plan.moves] == [
        ("c", "n1", plan.moves[0].after, "n1"),
        *[(name, "n0", "n2", "n0") for name in "ab"] * (len(plan.moves) == 3),
    ]
    assert plan.after.empty_nodes == plan.before.empty_nodes + len({m.empties for m in plan.moves})
    found.want("stuck", cpus=1, memory_mib=64, placement=Placement(node="n1"))
    run(found, "stuck", "n1")
    pinned = balance(found.world, max_moves=10, min_gain=0.01)
    assert all(move.empties != "n1" for move in pinned.moves)
    assert pinned.stays == {"pinned": 1}


def test_vms_that_are_not_moved() -> None:
    found = Cluster()
    found.put(KEYS.cluster(), SPREAD)
    for n in range(2):
        found.node(f"n{n}", cpus=8, memory_mib=9216)
    found.want("boots", cpus=2)
    run(found, "boots", "n0", Phase.STARTING)
    found.want("pinned", cpus=2, placement=Placement(node="n0"))
    run(found, "pinned", "n0")
    found.want("off", cpus=2, power="off")
    run(found, "off", "n0")
    found.want("anew", cpus=2)
    old = Claim(node="n0", session=1 << 40, uuid="another", volume_uuid="v", claim_id="c")
    found.put(KEYS.claim(VmId("default", "anew")), old)
    plan = balance(found.world, max_moves=10, min_gain=0.01)
    assert plan.moves == ()
    assert plan.stays == {"is not running": 1, "pinned": 1, "is being recreated": 1}
    found.want("free", cpus=2)
    run(found, "free", "n0")
    assert [move.vm.name for move in balance(found.world, max_moves=10, min_gain=0.01).moves] == ["free"]
    found.wish("n1", taints=(Taint(key="slow", effect=Effect.PREFER_NO_SCHEDULE),))
    assert balance(found.world, max_moves=10, min_gain=0.01).moves == (), "nor where it is not liked"
    found.wish("n1", cordoned=True)
    assert balance(found.world, max_moves=10, min_gain=0.01).before.nodes == 1


def test_a_move_that_breaks_anothers_rule_is_not_made() -> None:
    """The last of a group must not leave whoever has to be near to it."""
    found = Cluster()
    found.put(KEYS.cluster(), SPREAD)
    for n in range(2):
        found.node(f"n{n}", cpus=8, memory_mib=9216)
    found.want("db", cpus=2, labels={"app": "db"})
    found.want("web", cpus=2, placement=Placement(affinity=(GroupTerm(labels={"app": "db"}),)))
    for name in ("db", "web"):
        run(found, name, "n0")
    assert balance(found.world, max_moves=10, min_gain=0.01).moves == ()
    found.want("web", cpus=2)
    assert len(balance(found.world, max_moves=10, min_gain=0.01).moves) == 1


def test_room_is_there_at_that_moment() -> None:
    """What waits for a place has it already: no move takes it away."""
    found = Cluster()
    found.put(KEYS.cluster(), SPREAD)
    found.node("n0", cpus=8, memory_mib=9216)
    found.want("a", cpus=3, memory_mib=512)
    found.want("b", cpus=3, memory_mib=512)
    run(found, "a", "n0")
    run(found, "b", "n0")
    found.node("n1", cpus=6, memory_mib=9216)
    assert len(balance(found.world, max_moves=10, min_gain=0.01).moves) == 1
    found.want("waits", cpus=6, memory_mib=512)
    assert found.heads() == {"waits": ("n1",)}
    assert balance(found.world, max_moves=10, min_gain=0.01).moves == ()


def test_an_unplaced_vm_takes_freed_capacity() -> None:
    found = Cluster()
    found.put(KEYS.cluster(), SPREAD)
    found.node("n0", cpus=8, memory_mib=9216)
    for name in "abcd":
        found.want(name, cpus=2, memory_mib=512)
        run(found, name, "n0")
    found.node("n1", cpus=8, memory_mib=9216)
    found.want("large", cpus=8, memory_mib=512)
    run(found, "large", "n1")
    found.want("stuck", cpus=2, memory_mib=512, placement=Placement(node="n0"))
    found.node("n2", cpus=8, memory_mib=9216)
    plan = balance(found.world, max_moves=10, min_gain=0.01)
    # Without the one that waits for n0, two would go.
    assert [(move.before, move.after) for move in plan.moves] == [("n0", "n2")] * len(plan.moves)
    assert found.heads()["stuck"] == ()
    assert plan.after.mean_share > plan.before.mean_share
