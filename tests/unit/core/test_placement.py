"""Placement as every node computes it: properties that hold for any cluster, and the words of a refusal."""

from __future__ import annotations

import subprocess
import sys

import msgspec

from metastack.core.model import (
    Claim,
    ClusterConfig,
    Fence,
    Nic,
    NodeAlive,
    NodeFacts,
    NodeSpec,
    Placement,
    Power,
    Record,
    Resources,
    VmId,
    VmSpec,
)
from metastack.core.placement import PlacementEngine, explain, node_views, waiting
from metastack.core.placement.filters import refusals
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Entry, Snapshot

KEYS = Keys()


def spec(name: str, **more: object) -> VmSpec:
    fields: dict[str, object] = dict(
        project="default", name=name, uuid=f"uuid-{name}", image="i", image_uuid="i", volume_uuid=f"v-{name}",
        cpus=1, memory_mib=512, disk_bytes=1,
    )  # fmt: skip
    return VmSpec(**{**fields, **more})  # type: ignore[arg-type]


def world_of(*records: tuple[str, Record]) -> ClusterState:
    world = ClusterState(KEYS)
    entries = tuple(Entry(key, encode(r), n, n, 1) for n, (key, r) in enumerate(records, 1))
    world.load(Snapshot(len(entries) + 1, entries))
    return world


def alive(name: str, **more: object) -> tuple[str, NodeAlive]:
    fields: dict[str, object] = dict(
        name=name, ready=True, capacity=Resources(cpus=4, memory_mib=5120), bridges=("br0",)
    )
    return KEYS.node_alive(name), NodeAlive(**{**fields, **more})  # type: ignore[arg-type]


def wanted(name: str, **more: object) -> tuple[str, VmSpec]:
    return KEYS.vm_spec(VmId("default", name)), spec(name, **more)


def test_two_processes_rank_alike_whatever_their_hash_seed() -> None:
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "import test_placement as t;"
        "w = t.world_of(*[t.alive(f'n{i}') for i in range(9)], *[t.wanted(f'v{i}') for i in range(9)]);"
        "print({str(k): v.head for k, v in sorted(t.PlacementEngine(w).waiting.items())})"
    )
    folder = __file__.rsplit("/", 1)[0]
    said = {
        subprocess.run(
            [sys.executable, "-c", code, folder], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "77")
    }  # fmt: skip
    assert len(said) == 1
    assert "v8" in said.pop()


def test_a_burst_is_spread_by_virtual_assignments() -> None:
    world = world_of(*[alive(f"n{i}") for i in range(3)], *[wanted(f"v{i}") for i in range(12)])
    firsts = [wait.head[0] for wait in PlacementEngine(world).waiting.values()]
    assert sorted(firsts.count(f"n{i}") for i in range(3)) == [4, 4, 4]


def test_the_reasons_are_words_to_act_on() -> None:
    world = world_of(
        alive("full", capacity=Resources(cpus=1, memory_mib=1100)),
        alive("cordoned"), (KEYS.node_spec("cordoned"), NodeSpec(cordoned=True)),
        alive("young", ready=False), alive("bare", bridges=()),
        (KEYS.node_facts("lost"), NodeFacts(name="lost", uuid="u")), alive("fine"),
    )  # fmt: skip
    vm = spec("vm", memory_mib=512, cpus=2, nics=(Nic(bridge="br0", mac="m"),))
    said = {v.node: "; ".join(v.reasons) for v in explain(PlacementEngine(world), vm)}
    assert said == {
        "full": "needs 512 MiB of memory, 76 of 76 are free (too large even for an empty node)",
        "cordoned": "the node is cordoned",
        "young": "the node is not ready yet",
        "bare": "has no bridge 'br0'",
        "lost": "the node is lost",
        "fine": "",
    }
    pinned = spec("vm", placement=Placement(node="fine"))
    assert all(
        ("pinned to fine" in "; ".join(refusals(pinned, n))) == (n.name != "fine") for n in node_views(world)
    )


def test_overcommit_reserve_and_a_node_of_its_own_mind() -> None:
    world = world_of(
        (KEYS.cluster(), ClusterConfig(overcommit_cpu=2.0, overcommit_memory=1.5, host_reserve_mib=1024)),
        alive("n1"), alive("n2"), (KEYS.node_spec("n2"), NodeSpec(overcommit_cpu=1.0)),
    )  # fmt: skip
    rooms = {view.name: view.room for view in node_views(world)}
    assert rooms == {"n1": Resources(cpus=8.0, memory_mib=6144), "n2": Resources(cpus=4.0, memory_mib=6144)}


def test_pending_vms() -> None:
    dead = VmId("default", "of-the-dead")
    claim = Claim(node="gone", session=5, uuid="uuid-of-the-dead", volume_uuid="v", claim_id="c", epoch=1)
    held = VmId("default", "held")
    world = world_of(
        alive("n1"), wanted("of-the-dead"), (KEYS.claim(dead), claim),
        (KEYS.fence("gone"), Fence(through=5)), wanted("off", power=Power.OFF), wanted("new"),
        wanted("held"), (KEYS.claim(held), msgspec.structs.replace(claim, session=6)),
    )  # fmt: skip
    assert waiting(world) == [dead, VmId("default", "new")]
