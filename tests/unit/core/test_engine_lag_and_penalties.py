"""Nodes that hear late and nodes that are deaf: who comes last, for how long, and who is waited for."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from placement_rig import KEYS, Cluster

from metastack.core.model import ClusterConfig, NodeFacts, VmId, Weights
from metastack.core.placement import PlacementEngine, explain
from metastack.core.placement.misses import Misses


def test_a_node_that_hears_late_comes_last_and_says_why() -> None:
    found = Cluster()
    for n in range(3):
        found.node(f"n{n}")
    found.want("v0")
    first = found.heads()["v0"][0]
    found.node(first, lag_ms=256)
    assert found.heads()["v0"][-1] == first
    wanted = found.world.spec(VmId("default", "v0"))
    assert wanted is not None and wanted.record is not None
    verdicts = {v.node: v for v in explain(found.engine, wanted.record)}
    assert verdicts[first].parts["late"] == -0.15 and verdicts[first].fits
    assert all("late" not in v.parts for name, v in verdicts.items() if name != first)
    found.node(first)
    assert found.heads()["v0"][0] == first


def test_a_late_node_is_packed_last() -> None:
    for weights, taken in ((Weights(spread=0, pack=1), False), (Weights(), True)):
        found = Cluster()
        found.put(KEYS.cluster(), ClusterConfig(weight_spread=weights.spread, weight_pack=weights.pack))
        found.node("late", cpus=16, memory_mib=16384 + 1024, lag_ms=512)
        found.node("soon", cpus=16, memory_mib=16384 + 1024)
        for n in range(8):
            found.want(f"v{n}", cpus=1, memory_mib=1024)
        assert ("late" in found.claim_all().values()) is taken


def test_a_little_lag_moves_nobody_but_is_waited_for() -> None:
    found = Cluster()
    for n in range(3):
        found.node(f"n{n}")
    found.want("v0")
    vm, head = VmId("default", "v0"), found.heads()["v0"]
    assert [found.engine.delay_ms(vm, rank) for rank in range(4)] == [0, 30, 60, 90]
    found.node(head[0], lag_ms=64)
    assert found.heads()["v0"] == head
    assert [found.engine.delay_ms(vm, rank) for rank in range(4)] == [0, 48, 78, 108]


def test_full_lower_ranks_get_no_delay_beside_deaf_nodes() -> None:
    found = Cluster()
    for n in range(3):
        found.node(f"n{n}")
    found.want("v0", memory_mib=3000)
    vm, (first, second, third) = VmId("default", "v0"), found.heads()["v0"]
    assert [found.engine.delay_ms(vm, rank) for rank in range(4)] == [0, 30, 60, 90]
    found.want("full", memory_mib=3000)
    found.claim("full", second)
    assert found.heads()["v0"] == (first, second, third)
    assert [found.engine.delay_ms(vm, rank) for rank in range(4)] == [0, 30, 60, 90]
    found.engine.misses.won("n8", ("n9", "n8"))
    assert [found.engine.delay_ms(vm, rank) for rank in range(4)] == [0, 30, 30, 60]


def test_behind_the_head_each_waits_half_a_rank() -> None:
    found = Cluster()
    for n in range(12):
        found.node(f"n{n:02}")
    found.want("v0")
    vm = VmId("default", "v0")
    assert [found.engine.delay_ms(vm, rank) for rank in (8, 9, 10)] == [240, 255, 270]
    wait = found.engine.waiting[vm]
    line = (*wait.head, *found.engine.behind(wait))
    assert len(set(line)) == 12
    assert [found.engine.turn(vm, name, deep=True) for name in line] == list(range(12))
    assert found.engine.turn(vm, line[8], deep=False) is None


def test_a_missed_node_is_tried_only_as_first() -> None:
    found = Cluster()
    for n in range(10):
        found.node(f"n{n}", cpus=64, memory_mib=65536)
    found.want("v0")
    deaf, second = found.heads()["v0"][:2]
    found.claim("v0", second)
    assert found.engine.misses.count == {deaf: 1}
    found.want("v1")
    assert deaf not in found.heads()["v1"], "nine others would take it"
    others = [f"n{n}" for n in range(10) if f"n{n}" != deaf]
    for n in range(40):  # until its charge is over and it is the emptiest
        if found.heads()["v1"][0] == deaf:
            break
        found.want(f"w{n}")
        for name, head in found.heads().items():
            if name.startswith("w"):
                found.claim(name, next(node for node in head if node in others))
        found.delete(KEYS.vm_spec(VmId("default", "v1")))
        found.want("v1")
    assert found.heads()["v1"][0] == deaf, "it is tried once more"
    assert found.engine.delay_ms(VmId("default", "v1"), 1) == 10
    found.want("v2")
    assert deaf not in found.heads()["v2"], "with one VM, and as the first"


def test_a_missed_node_stays_first_only_after_its_charge() -> None:
    found = Cluster()
    for n in range(10):
        found.node(f"n{n}", cpus=64, memory_mib=65536)
    found.want("v0")
    deaf, second = found.heads()["v0"][:2]
    found.claim("v0", second)
    while found.engine.misses.charged(deaf):
        found.engine.misses.won(second, ())
    for n in range(30):
        found.want(f"w{n}")
    heads = [head for name, head in found.heads().items() if name.startswith("w")]
    assert all(len(head) == 8 and deaf not in head[1:] for head in heads)
    misses = Misses(3)
    misses.won("b", ("a", "b"))
    assert misses.head_of(["a", "b", "c"], 2) == ["a", "b"]
    assert misses.head_of(["b", "a", "c"], 2) == ["b", "c"]
    assert misses.head_of(["b", "a"], 2) == ["b", "a"], "where there is nobody else"


def test_each_later_miss_lasts_longer() -> None:
    misses = Misses(3)
    for _ in range(5):
        misses.won("b", ("a", "b"))
    assert misses.charged("a") == 1
    lasted = []
    for _ in range(3):
        n = 0
        while misses.charged("a"):
            misses.won("b", ("b",))
            n += 1
        lasted.append(n)
        misses.won("b", ("a", "b"))
    assert lasted == [12, 96, 96]
    misses.won("a", ("b", "a"))
    assert not misses.charged("a") and misses.charged("b")


def test_a_new_session_is_forgiven() -> None:
    found = Cluster()
    for n in range(2):
        found.put(KEYS.node_facts(f"n{n}"), NodeFacts(name=f"n{n}", uuid="u"))
        found.node(f"n{n}", cpus=16, memory_mib=65536)
    found.want("v0")
    first, second = found.heads()["v0"]
    found.claim("v0", second)
    assert found.engine.misses.charged(first)
    found.delete(KEYS.node_alive(first))
    found.node(first, cpus=16, memory_mib=65536)
    assert not found.engine.misses.charged(first)


@given(st.lists(st.tuples(st.sampled_from("abcde"), st.permutations("abcde")), max_size=60))
def test_the_last_winner_is_never_charged(wins: list[tuple[str, list[str]]]) -> None:
    misses = Misses(5)
    for winner, head in wins:
        misses.won(winner, tuple(head))
        assert not misses.charged(winner)
    for _ in range(16 * 6**3):
        misses.won("f", ("f",))
    assert not any(misses.charged(name) for name in "abcde")


def test_a_deaf_node_is_tried_with_one_vm() -> None:
    found = Cluster()
    for n in range(3):
        found.node(f"n{n}", cpus=64, memory_mib=65536)
    found.want("v0")
    deaf, other, _ = found.heads()["v0"]
    found.claim("v0", other)
    n = 0
    while found.engine.misses.charged(deaf):
        found.want(f"w{n}", cpus=1)
        found.claim(f"w{n}", found.heads()[f"w{n}"][0])
        n += 1
    for name in ("a", "b", "c"):
        found.want(name)
    heads = found.heads()
    assert [heads[name][0] == deaf for name in ("a", "b", "c")] == [True, False, False]
    # Whoever it was given to is gone: another is the trial.
    found.delete(KEYS.vm_spec(VmId("default", "a")))
    found.want("d")
    assert found.heads()["d"][0] == deaf
    # It took it: all is well.
    found.claim("d", deaf)
    found.want("e")
    assert found.heads()["e"][0] == deaf


def test_a_charge_ends_alike_for_batched_events() -> None:
    """Were the claim not counted, a node that hears late would not take the VM that all others leave to it."""
    found = Cluster()
    for n in range(3):
        found.node(f"n{n}", cpus=64, memory_mib=65536)
    found.want("v0")
    late = PlacementEngine(found.world)
    deaf, other, _ = found.heads()["v0"]
    found.claim("v0", other)
    late.update(found.touched)
    seen = []
    for n in range(20):
        found.touched.clear()
        found.want(f"w{n}")
        found.claim(f"w{n}", found.heads()[f"w{n}"][0])
        late.update(found.touched)
        seen.append((found.engine.misses.charged(deaf), late.misses.charged(deaf)))
    assert seen == [(1, 1)] * 15 + [(0, 0)] * 5
