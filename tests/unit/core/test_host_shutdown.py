"""What a node does while its host shuts down: the policy, and the fate of each VM."""

from __future__ import annotations

import pytest
from placement_rig import KEYS, Cluster

from metastack.core.host_shutdown import STOP_MAX_S, decide, fate, patience_s
from metastack.core.model import (
    ClusterConfig,
    ClusterShutdown,
    Ha,
    Maintenance,
    OnHostShutdown,
    Placement,
    Power,
    VmId,
)
from metastack.core.plan import HostStop
from metastack.core.protocol.cluster_shutdown import going_down

RELEASE, RETURN, LEAVE = OnHostShutdown.RELEASE, OnHostShutdown.RETURN, OnHostShutdown.LEAVE
BOOT = "boot-1"


@pytest.fixture
def cluster() -> Cluster:
    found = Cluster()
    for name in ("n1", "n2"):
        found.node(name, boot_id=BOOT)
    return found


def policy(cluster: Cluster, silent_since: str = "") -> OnHostShutdown:
    return decide(cluster.world, "n1", BOOT, silent_since).policy


def what(cluster: Cluster, chosen: OnHostShutdown = RELEASE) -> HostStop | None:
    return fate(cluster.engine, "n1", chosen, VmId("default", "vm"))


def test_the_clusters_setting_holds(cluster: Cluster) -> None:
    assert policy(cluster) is RELEASE
    cluster.put(KEYS.cluster(), ClusterConfig(on_host_shutdown=LEAVE))
    assert policy(cluster) is LEAVE


def test_a_nodes_own_policy_goes_first(cluster: Cluster) -> None:
    cluster.put(KEYS.cluster(), ClusterConfig(on_host_shutdown=LEAVE))
    cluster.wish("n1", on_host_shutdown=RETURN)
    cluster.wish("n2", on_host_shutdown=RELEASE)
    assert policy(cluster) is RETURN


def test_release_waits_under_maintenance(cluster: Cluster) -> None:
    cluster.put(KEYS.maintenance(), Maintenance(by="p", reason="switch"))
    assert policy(cluster) is RETURN


def test_release_waits_while_the_storage_is_silent(cluster: Cluster) -> None:
    assert policy(cluster, "noon") is RETURN


def test_a_shutdown_of_the_cluster_overrides_every_policy(cluster: Cluster) -> None:
    cluster.put(KEYS.cluster(), ClusterConfig(on_host_shutdown=LEAVE))
    cluster.put(KEYS.cluster_shutdown(), ClusterShutdown(by="p", reason="mains", boots={"n1": BOOT}))
    assert policy(cluster) is RETURN


@pytest.mark.parametrize(
    ("boots", "concerned"), [({"n1": BOOT}, True), ({"n1": "boot-0"}, False), ({"n2": BOOT}, False)]
)
def test_only_the_boots_that_it_names_are_concerned(
    cluster: Cluster, boots: dict[str, str], concerned: bool
) -> None:
    cluster.put(KEYS.cluster_shutdown(), ClusterShutdown(by="p", reason="mains", boots=boots))
    assert bool(going_down(cluster.world, "n1", BOOT)) is concerned


def test_a_vm_that_fits_elsewhere_is_given_away(cluster: Cluster) -> None:
    cluster.want("vm")
    cluster.claim("vm", "n1")
    assert what(cluster) is HostStop.RELEASE
    assert what(cluster, RETURN) is HostStop.KEEP
    assert what(cluster, LEAVE) is None


def test_a_pinned_vm_is_kept(cluster: Cluster) -> None:
    cluster.want("vm", placement=Placement(node="n1"))
    cluster.claim("vm", "n1")
    assert what(cluster) is HostStop.KEEP


def test_no_vm_goes_to_a_host_that_leaves_too(cluster: Cluster) -> None:
    cluster.want("vm")
    cluster.claim("vm", "n1")
    cluster.node("n2", boot_id=BOOT, leaving="release")
    assert what(cluster) is HostStop.KEEP


def test_a_vm_that_starts_after_another_is_given_away(cluster: Cluster) -> None:
    cluster.want("db", power=Power.OFF)
    cluster.want("vm", ha=Ha(start_after=("db",)))
    cluster.claim("vm", "n1")
    assert what(cluster) is HostStop.RELEASE


def test_guests_get_less_time_than_systemd_does(cluster: Cluster) -> None:
    cluster.put(KEYS.cluster(), ClusterConfig(stop_timeout_s=3600))
    assert patience_s(cluster.world) == STOP_MAX_S < 1800
