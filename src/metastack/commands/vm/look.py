"""One VM as it is now, read with as few records as its view needs."""

from __future__ import annotations

from metastack.core.model import Phase, VmId
from metastack.core.state.cluster_state import ClusterState
from metastack.core.state.keys import Kind

from ..reading import EVERYTHING, prefixes_of_vm, read_world
from ..request import Cluster
from .views import VmView, vm_view


async def look_at_vm(cluster: Cluster, vm: VmId) -> VmView | None:
    """One VM as it is now; the whole world is read only to explain why nobody takes it."""
    keys = cluster.keys
    wanted = [*keys.prefixes((Kind.NODE_ALIVE, Kind.FENCE)), *prefixes_of_vm(keys, vm)]
    world = await read_world(cluster, wanted)
    view = vm_view(world, vm, lambda: None)
    if view is not None and explains(world, view):
        view = vm_view(await read_world(cluster, keys.prefixes(EVERYTHING)), vm)
    return view


def explains(world: ClusterState, view: VmView) -> bool:
    """Whether the message is about what other nodes say, so that all of them must be read."""
    if view.node is None:
        return view.phase == Phase.PENDING
    return view.phase == Phase.CLAIMED and world.alive(view.node) is None
