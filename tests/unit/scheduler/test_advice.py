"""Which hints are written and withdrawn, change by change."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "core"))

from placement_rig import KEYS, Cluster

from metastack.core.model import ClusterConfig, Fence, Hint, VmId
from metastack.core.placement import PlacementEngine
from metastack.core.protocol.leader_terms import LeaderTerm
from metastack.core.state.codec import decode
from metastack.core.transaction import Put
from metastack.scheduler.advice import Advice
from metastack.store.twin.cluster import MemoryCluster
from metastack.store.twin.store import MemoryStore

TERM = LeaderTerm(revision=7, lease=0)


class Told:
    """A cluster, and what a scheduler says about it; what it says is done."""

    def __init__(self) -> None:
        self.cluster = Cluster()
        self.advice = Advice(MemoryStore(MemoryCluster()), KEYS, "s1")

    def again(self) -> tuple[dict[str, str], set[str]]:
        """(hinted now, withdrawn now)."""
        self.advice.picture.world, self.advice.picture.engine = self.cluster.world, self.cluster.engine
        told: dict[str, str] = {}
        gone: set[str] = set()
        for change in list(self.advice._changes(TERM)):
            assert change.guards[0].value == TERM.revision and len(change.effects) <= 100
            for effect in change.effects:
                name = effect.key.rpartition("/")[2]
                if isinstance(effect, Put):
                    hint = decode(Hint, effect.value)
                    assert effect.leased and hint.by == "scheduler/s1"
                    told[name] = hint.node
                    self.cluster.put(effect.key, hint)
                else:
                    gone.add(name)
                    self.cluster.delete(effect.key)
        return told, gone


def crowded(smalls: int = 2) -> Told:
    """n0 is lost: small VMs and a large one, for which there is capacity in one way only."""
    found = Told()
    cluster = found.cluster
    cluster.put(KEYS.cluster(), ClusterConfig(overcommit_cpu=1.0))
    for n in range(3):
        cluster.node(f"n{n}", cpus=4 * smalls, memory_mib=1 << 20)
    for name in [*(f"small{n}" for n in range(smalls)), "large"]:
        cluster.want(name, cpus=4 * smalls - 1 if name == "large" else 2, memory_mib=64)
        cluster.claim(name, "n0")
    cluster.delete(KEYS.node_alive("n0"))
    cluster.engine = PlacementEngine(cluster.world)
    return found


def test_said_once_kept_while_it_is_followed_withdrawn_after() -> None:
    found = crowded()
    told, gone = found.again()
    assert set(told) == {"small0", "small1", "large"} and not gone
    assert found.again() == ({}, set()), "it is said"
    found.cluster.put(KEYS.fence("n0"), Fence(through=1 << 41))
    assert {name: head[0] for name, head in found.cluster.heads().items()} == told
    assert found.again() == ({}, set()), "the nodes are about to follow it"
    found.cluster.claim("small0", told["small0"])
    assert found.again() == ({}, {"small0"})
    found.cluster.delete(KEYS.vm_spec(VmId("default", "small1")))
    assert found.again() == ({}, {"small1"})
    other = next(name for name in ("n1", "n2") if name != told["large"])
    found.cluster.claim("large", other)
    assert found.again() == ({}, {"large"}), "somebody else was faster: that is fine, too"


def test_what_is_not_true_any_more_is_withdrawn() -> None:
    found = crowded()
    found.again()
    found.cluster.node("n0", cpus=8, memory_mib=1 << 20)  # it is back before anybody fenced it
    assert found.again() == ({}, {"small0", "small1", "large"})


def test_many_hints_go_in_bounded_transactions() -> None:
    found = crowded(150)
    told, _ = found.again()
    assert len(told) == 151
