"""The placement engine: properties of any cluster and history, filters, misses, gates, what if."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from placement_rig import KEYS, Cluster, reasons, spec, zoned

from metastack.core.model import (
    ClusterConfig,
    Effect,
    Fence,
    GroupTerm,
    Ha,
    Hint,
    NodeExpression,
    Operator,
    Phase,
    Placement,
    Resources,
    Taint,
    Toleration,
    VmId,
    VmStatus,
    Volume,
    Weights,
)
from metastack.core.placement import NodeView, PlacementEngine, explain, first_unfitting_loss, whatif

nodes_st = st.lists(st.tuples(st.integers(0, 16), st.integers(1024, 16384)), min_size=1, max_size=8)
vms_st = st.lists(st.tuples(st.integers(1, 8), st.integers(16, 4096)), max_size=12)


def settings_of(weights: Weights) -> ClusterConfig:
    return ClusterConfig(
        weight_spread=weights.spread, weight_pack=weights.pack, weight_balanced=weights.balanced,
        weight_image=weights.image, weight_last_node=weights.last_node,
    )  # fmt: skip


def cluster_of(nodes: list[tuple[int, int]], vms: list[tuple[int, int]], weights: Weights) -> Cluster:
    found = Cluster()
    found.put(KEYS.cluster(), settings_of(weights))
    for n, (cpus, mib) in enumerate(nodes):
        found.node(f"n{n}", cpus, mib)
    for n, (cpus, mib) in enumerate(vms):
        found.want(f"v{n}", cpus=cpus, memory_mib=mib)
    return found


weights_st = st.sampled_from([Weights(), Weights(spread=0, pack=1), Weights(spread=0.5, pack=0.2, balanced=1)])


@given(nodes_st, vms_st, weights_st)
def test_following_events_ends_where_a_fresh_look_begins(nodes: Any, vms: Any, weights: Weights) -> None:
    found = cluster_of(nodes, vms, weights)
    assert found.engine.waiting == PlacementEngine(found.world).waiting


@given(nodes_st, vms_st, weights_st, st.randoms())
def test_the_order_in_which_nodes_came_does_not_matter(
    nodes: Any, vms: Any, weights: Weights, random: Any
) -> None:
    one = cluster_of(nodes, vms, weights)
    other = Cluster()
    other.put(KEYS.cluster(), settings_of(weights))
    shuffled = list(enumerate(nodes))
    random.shuffle(shuffled)
    for n, (cpus, mib) in shuffled:
        other.node(f"n{n}", cpus, mib)
    for n, (cpus, mib) in enumerate(vms):
        other.want(f"v{n}", cpus=cpus, memory_mib=mib)
    assert one.heads() == other.heads()


@given(nodes_st, vms_st, weights_st, st.integers(1, 4), st.integers(256, 4096))
def test_no_node_ever_promises_more_than_it_has(
    nodes: Any, vms: Any, weights: Weights, cpus: int, mib: int
) -> None:
    found = cluster_of(nodes, vms, weights)
    found.claim_all()
    found.want("late", cpus=cpus, memory_mib=mib)
    for node in found.engine.nodes.values():
        if node.promised != Resources():
            assert node.promised.cpus <= node.room.cpus and node.promised.memory_mib <= node.room.memory_mib


@given(nodes_st, vms_st, weights_st)
def test_every_refusal_has_a_reason_and_every_fit_a_score(nodes: Any, vms: Any, weights: Weights) -> None:
    found = cluster_of(nodes, vms, weights)
    for wait in found.engine.waiting.values():
        verdicts = explain(found.engine, wait.spec)
        assert len(verdicts) == len(nodes)
        for verdict in verdicts:
            assert verdict.fits == (not verdict.reasons)
        assert bool(wait.head) == any(verdict.fits for verdict in verdicts)
    if found.engine.waiting:
        last = max(found.engine.waiting.values(), key=lambda wait: wait.line)
        # Nobody came after it, so what is said now is what was decided then.
        assert [v.node for v in explain(found.engine, last.spec) if v.fits] == list(last.head)


@given(nodes_st, vms_st, st.integers(0, 8), st.integers(0, 8192))
def test_more_capacity_never_loses_a_place(nodes: Any, vms: Any, cpus: int, mib: int) -> None:
    before = cluster_of(nodes, [], Weights())
    after = cluster_of([(c + cpus, m + mib) for c, m in nodes], [], Weights())
    for n, (need_cpus, need_mib) in enumerate(vms):
        vm = spec(f"v{n}", cpus=need_cpus, memory_mib=need_mib)
        fitted = {v.node for v in explain(before.engine, vm) if v.fits}
        assert fitted <= {v.node for v in explain(after.engine, vm) if v.fits}


HAPPENINGS = ("node", "gone", "cordon", "want", "unwant", "claim", "claim_other", "unclaim")


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from(HAPPENINGS), st.integers(0, 5), st.integers(0, 5)), max_size=40))
def test_loads_are_those_of_a_fresh_look_whatever_happened(steps: list[tuple[str, int, int]]) -> None:
    found = Cluster()
    for kind, a, b in steps:
        vm, node = VmId("default", f"v{a}"), f"n{b}"
        match kind:
            case "node":
                found.node(node, cpus=1 + a, memory_mib=2048)
            case "gone" if found.world.alive(node) is not None:
                found.delete(KEYS.node_alive(node))
            case "cordon":
                found.wish(node, cordoned=bool(a % 2), labels={"zone": f"z{a % 2}"})
            case "want":
                group = (GroupTerm(labels={"app": "x"}, topology="zone"),)
                near, far = group if b == 4 else (), group if b % 2 else ()
                labels = {"app": "x"} if a % 3 else {}
                found.want(
                    vm.name, cpus=1 + b, labels=labels, placement=Placement(affinity=near, anti_affinity=far)
                )
            case "unwant" if found.world.spec(vm) is not None:
                found.delete(KEYS.vm_spec(vm))
            case "claim" if found.engine.waiting.get(vm) and found.engine.waiting[vm].head:
                found.claim(vm.name, found.engine.waiting[vm].head[0])
            case "claim_other" if found.world.alive(node) is not None and vm in found.engine.waiting:
                found.claim(vm.name, node)
            case "unclaim" if found.world.claim(vm) is not None:
                found.delete(KEYS.claim(vm))
            case _:
                pass
    fresh = PlacementEngine(found.world)
    assert set(found.engine.waiting) == set(fresh.waiting)
    # Who waits may be promised to another node than a fresh look would choose; that it is promised to one that
    # can take it, or to nobody because nobody can, holds all the same.
    claimed = {
        vm: found.engine.placed_on(vm) for vm, c in found.world.claims() if found.world.spec(vm) is not None
    }
    assert claimed == {vm: fresh.placed_on(vm) for vm in claimed}
    assert found.engine.groups._asked == fresh.groups._asked
    for wait in found.engine.waiting.values():
        fits = [v.node for v in explain(found.engine, wait.spec) if v.fits]
        assert bool(wait.head) == bool(fits), (wait, fits)
    for engine in (found.engine, fresh):
        for wait in list(engine.waiting.values()):
            engine._withdraw(wait.vm)
    assert {n: v.promised for n, v in found.engine.nodes.items()} == {
        n: v.promised for n, v in fresh.nodes.items()
    }


def label(key: str, operator: Operator, *values: str) -> Placement:
    return Placement(expressions=(NodeExpression(key=key, operator=operator, values=values),))


@pytest.mark.parametrize(
    ("placement", "takers"),
    [
        (Placement(node="n1"), {"n1"}),
        (Placement(node_selector={"disk": "ssd"}), {"n1", "n3", "n5"}),
        (label("zone", Operator.IN, "a"), {"n0", "n1"}),
        (label("zone", Operator.NOT_IN, "a", "b"), {"n4", "n5"}),
        (label("rank", Operator.GT, "3"), {"n4", "n5"}),
        (label("rank", Operator.LT, "1"), {"n0"}),
        (label("gpu", Operator.EXISTS), set()),
        (label("gpu", Operator.DOES_NOT_EXIST), {f"n{n}" for n in range(6)}),
        (Placement(arch="riscv64"), set()),
        (Placement(cpu_features=("avx2",)), {"n0"}),
    ],
)  # fmt: skip
def test_filters(placement: Placement, takers: set[str]) -> None:
    found = zoned()
    found.node("n0", arch="x86_64", cpu_features=("avx2", "aes"))
    found.want("vm", placement=placement)
    assert set(found.heads()["vm"]) == takers
    assert {n for n, why in reasons(found, "vm").items() if not why} == takers


def test_an_unreported_cpu_feature_is_not_called_missing() -> None:
    found = zoned("ab")
    found.node("n0", cpu_features=("aes",))
    found.want("vm", placement=Placement(cpu_features=("avx2",)))
    assert reasons(found, "vm") == {
        "n0": "its processor lacks avx2",
        "n1": "the node does not report whether its processor has avx2 (nodes with KVM do)",
    }


def test_taints() -> None:
    found = zoned("ab")
    found.wish("n0", taints=(Taint(key="dedicated", value="db"),))
    found.want("plain")
    found.want("db", placement=Placement(tolerations=(Toleration(key="dedicated", value="db"),)))
    assert found.heads()["plain"] == ("n1",)
    assert set(found.heads()["db"]) == {"n0", "n1"}
    assert reasons(found, "plain")["n0"] == "does not tolerate the taint dedicated=db"
    found.wish("n0", taints=(Taint(key="old", effect=Effect.PREFER_NO_SCHEDULE),))
    assert found.heads()["plain"] == ("n1", "n0")


def test_other_resources() -> None:
    found = Cluster()
    found.node("n0")
    found.put(
        KEYS.node_alive("n1"),
        found.world.alive("n0").ok.__class__(  # type: ignore[union-attr]
            name="n1", ready=True, capacity=Resources(cpus=4, memory_mib=5120, other={"gpu": 1}), bridges=()
        ),
    )
    found.want("a", resources={"gpu": 1})
    found.want("b", resources={"gpu": 1})
    assert found.heads() == {"a": ("n1",), "b": ()}
    assert reasons(found, "b") == {"n0": "needs 1 gpu, the node has none", "n1": "needs 1 gpu, 0 of 1 are free"}


def test_priority_goes_first_when_capacity_is_short() -> None:
    found = Cluster()
    for n in range(4):
        found.want(f"low{n}", memory_mib=1024)
    found.want("high", memory_mib=4096, ha=Ha(priority=10))
    found.node("n0", memory_mib=5120)
    assert found.heads()["high"] == ("n0",)
    assert all(not found.heads()[f"low{n}"] for n in range(4))


def test_start_after_waits_except_in_a_circle() -> None:
    found = Cluster()
    found.node("n0")
    found.want("db")
    found.want("app", ha=Ha(start_after=("db",)))
    assert found.heads() == {"db": ("n0",), "app": ()}
    assert "starts after default/db" in found.engine.waiting[VmId("default", "app")].held
    found.claim("db", "n0")
    assert found.heads() == {"app": ()}
    status = VmStatus(uuid="uuid-db", phase=Phase.RUNNING, node="n0", session=1, epoch=1, ready=False)
    found.put(KEYS.vm_status(VmId("default", "db")), status)
    assert "readiness port" in found.engine.waiting[VmId("default", "app")].held
    found.put(
        KEYS.vm_status(VmId("default", "db")),
        VmStatus(uuid="uuid-db", phase=Phase.RUNNING, node="n0", session=1, epoch=1),
    )
    assert found.heads() == {"app": ("n0",)}
    found.want("x", ha=Ha(start_after=("y",)))
    found.want("y", ha=Ha(start_after=("x",)))
    assert found.heads()["x"] and found.heads()["y"]


def test_a_deaf_node_is_last_until_it_claims() -> None:
    found = Cluster()
    for n in range(3):
        found.node(f"n{n}")
    found.want("v0")
    first, second, _ = found.heads()["v0"]
    found.claim("v0", second)
    found.want("v1")
    assert found.heads()["v1"][-1] == first
    found.want("v2", placement=Placement(node=first))
    found.claim("v2", first)
    found.delete(KEYS.vm_spec(VmId("default", "v2")))
    found.delete(KEYS.claim(VmId("default", "v2")))
    found.want("v3")
    assert found.heads()["v3"].index(first) < 2


def test_a_takeover_waits_for_the_fence() -> None:
    found = Cluster()
    found.node("n0")
    found.node("n1")
    found.want("vm")
    found.claim("vm", "n0")
    found.delete(KEYS.node_alive("n0"))
    assert found.heads() == {}
    found.put(KEYS.fence("n0"), Fence(through=1 << 41))
    assert found.heads() == {"vm": ("n1",)}


def test_a_living_hint_goes_first_if_it_fits() -> None:
    found = Cluster()
    for n in range(3):
        found.node(f"n{n}")
    found.want("vm")
    usual = found.heads()["vm"]
    hint = KEYS.hint(VmId("default", "vm"))
    found.put(hint, Hint(uuid="uuid-vm", node=usual[2]))
    assert found.heads()["vm"] == (usual[2], usual[0], usual[1])
    found.put(hint, Hint(uuid="another", node=usual[2]))
    assert found.heads()["vm"] == usual
    found.put(hint, Hint(uuid="uuid-vm", node="nowhere"))
    assert found.heads()["vm"] == usual
    found.delete(hint)
    assert found.heads()["vm"] == usual


def test_where_it_ran_last_and_where_its_image_is() -> None:
    found = Cluster()
    found.put(KEYS.cluster(), settings_of(Weights(last_node=2.0)))
    for n in range(3):
        found.node(f"n{n}")
    found.want("vm")
    usual = found.heads()["vm"]
    volume = Volume(
        uuid="v-vm",
        project="default",
        vm="vm",
        vm_uuid="uuid-vm",
        size_bytes=1,
        image_uuid="i",
        last_node=usual[2],
    )
    found.put(KEYS.volume("default", "v-vm"), volume)
    assert PlacementEngine(found.world).waiting[VmId("default", "vm")].head[0] == usual[2]
    found.put(KEYS.cluster(), settings_of(Weights(spread=0.1, image=1.0)))
    found.claim("vm", usual[1])
    found.want("same", image_uuid="i")
    found.want("other", image_uuid="j")
    assert found.heads()["same"][0] == usual[1]
    assert found.heads()["other"][0] != usual[1]


def test_what_if_a_node_is_lost_or_added() -> None:
    found = Cluster()
    for n in range(3):
        found.node(f"n{n}", memory_mib=1024 + 2560)
    for n in range(9):
        found.want(f"v{n}", memory_mib=512)
    found.claim_all()
    assert whatif(found.world).moves == ()
    lost = whatif(found.world, lost=["n0"])
    assert lost.fits and {move.before for move in lost.moves} == {"n0"} and len(lost.moves) == 3
    assert first_unfitting_loss(found.world, 1) == ((), ())
    both = whatif(found.world, lost=["n0", "n1"])
    assert len(both.left_out) == 4 and "MiB of memory" in both.left_out[0].reasons["n2"][0]
    more = NodeView(name="new", room=Resources(cpus=16, memory_mib=65536))
    assert whatif(found.world, lost=["n0", "n1"], more=[more]).fits
    lost_names, left = first_unfitting_loss(found.world, 2)
    assert len(lost_names) == 2 and left
    for many in (3, 64):  # nobody is left
        lost_names, left = first_unfitting_loss(found.world, many)
        assert len(lost_names) == 3 and len(left) == len(found.engine.on("n0")) * 3
    # Thinking changes nothing.
    assert not found.engine.waiting and PlacementEngine(found.world).nodes["n0"].state == "ready"


def test_a_node_that_joins_costs_no_count_of_all_vms() -> None:
    found = zoned()
    for n in range(4):
        found.want(f"v{n}", labels={"app": "x"})
        found.claim(f"v{n}", found.engine.waiting[VmId("default", f"v{n}")].head[0])
    groups = found.engine.groups
    found.want("large", cpus=64)
    assert not found.engine.waiting[VmId("default", "large")].head
    found.node("m", cpus=64)
    assert found.engine.groups is groups, "everything was counted anew"
    assert list(found.engine.nodes) == sorted(found.engine.nodes)
    assert found.engine.waiting[VmId("default", "large")].head == ("m",)


def test_a_late_node_is_counted_with_its_vms() -> None:
    found = Cluster()
    found.node("n1")
    found.want("v1", memory_mib=1024)
    found.claim("v1", "n2")  # it came before the news of its node
    found.node("n2")
    assert found.engine.nodes["n2"].promised.memory_mib == 1024


def test_a_pause_or_another_reason_sends_nobody_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    found = Cluster()
    found.node("n1")
    found.want("v1")
    found.claim("v1", "n1")
    loads: list[str] = []
    for name in ("take_back", "_displace"):
        monkeypatch.setattr(found.engine, name, lambda *_args, name=name: loads.append(name))
    found.want("v1", paused_epoch=1, reason="maintenance", request_id="r")
    assert loads == []
    found.want("v1", cpus=2)
    assert loads == ["take_back", "_displace"]
