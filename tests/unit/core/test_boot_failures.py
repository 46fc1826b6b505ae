"""Penalties: a node that could not start a VM is passed over by that VM, for one version of its spec."""

from __future__ import annotations

from placement_rig import KEYS, Cluster

from metastack.core.model import Hint, Penalty, VmId
from metastack.core.placement import PlacementEngine, elsewhere, explain
from metastack.core.state.cluster_state import mod_of

VM = VmId("default", "v")


def penalise(cluster: Cluster, node: str, name: str = "v") -> None:
    vm = VmId("default", name)
    said = cluster.world.spec(vm)
    assert said is not None
    record = Penalty(uuid=said.ok.uuid, spec_mod=mod_of(said), reason="QEMU dies", until="T")
    cluster.put(KEYS.penalty(vm, node), record)


def head(cluster: Cluster, name: str = "v") -> tuple[str, ...]:
    found = cluster.engine.waiting[VmId("default", name)].head
    fresh = PlacementEngine(cluster.world).waiting[VmId("default", name)].head
    assert found == fresh, "followed event by event, or made anew: the same"
    return found


def two_nodes() -> Cluster:
    cluster = Cluster()
    for name in ("n1", "n2"):
        cluster.node(name)
    cluster.want("v")
    return cluster


def test_a_vm_skips_a_node_with_boot_failures() -> None:
    cluster = two_nodes()
    first, second = head(cluster)
    penalise(cluster, first)
    assert head(cluster) == (second,)
    verdict = next(v for v in explain(cluster.engine, cluster.world.spec(VM).ok) if v.node == first)  # type: ignore[union-attr]
    assert verdict.reasons == ("failed to start here: QEMU dies; until T, or `metastack vm start`",)
    assert cluster.engine.fits(VM, first) == verdict.reasons
    penalise(cluster, second)
    assert head(cluster) == ()
    cluster.delete(KEYS.penalty(VM, first))
    assert head(cluster) == (first,), "its lease ended"


def test_a_changed_spec_is_void_of_it() -> None:
    cluster = two_nodes()
    both = head(cluster)
    for node in both:
        penalise(cluster, node)
    assert head(cluster) == ()
    cluster._created.pop(KEYS.vm_spec(VM))  # the rig's records keep their first revision
    cluster.want("v")  # written once more, as it was
    assert sorted(head(cluster)) == sorted(both)


def test_another_vm_of_that_shape_does_not_mind() -> None:
    cluster = two_nodes()
    for node in head(cluster):
        penalise(cluster, node)
    cluster.want("w")
    assert len(head(cluster, "w")) == 2
    assert head(cluster) == (), "nor does its place help the first"


def test_it_is_given_back_only_where_somebody_else_takes_it() -> None:
    cluster = two_nodes()
    cluster.claim("v", "n1")
    spec = cluster.world.spec(VM).ok  # type: ignore[union-attr]
    assert elsewhere(cluster.engine, "n1", spec) == "n2"
    penalise(cluster, "n2")
    assert elsewhere(cluster.engine, "n1", spec) == ""
    cluster.node("n3", ready=False)
    assert elsewhere(cluster.engine, "n1", spec) == ""
    cluster.node("n3")
    assert elsewhere(cluster.engine, "n1", spec) == "n3"


def test_a_hint_does_not_bring_it_back() -> None:
    cluster = two_nodes()
    first, second = head(cluster)
    penalise(cluster, first)
    cluster.put(KEYS.hint(VM), Hint(uuid="uuid-v", node=first))
    assert head(cluster) == (second,)
