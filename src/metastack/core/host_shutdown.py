"""A host's shutdown: what its node does with its VMs, from the settings and the state of the cluster. Pure.

Owns: that decision, for the node (:func:`decide`) and for one VM (:func:`fate`).
Refuses: stopping anything, and clocks.
Rule: a VM is given to others only if another node would take it. Otherwise it waits for this host, which a
person switched off on purpose.
"""

from __future__ import annotations

from typing import Final

from msgspec import Struct

from .model import OnHostShutdown, VmId
from .placement import PlacementEngine, taker
from .plan import HostStop
from .protocol.cluster_shutdown import going_down
from .protocol.maintenance import paused
from .state.cluster_state import ClusterState, wants_on

STOP_MAX_S: Final = 1500.0
"""Guests get no longer than this, whatever ``stop_timeout_s`` says: systemd forces the end after 30 minutes."""


class HostPlan(Struct, frozen=True):
    """What a node does while its host shuts down."""

    policy: OnHostShutdown
    why: str = ""
    """Why that is not the policy of the settings; empty: it is."""


def decide(world: ClusterState, node: str, boot_id: str, silent_since: str) -> HostPlan:
    """The policy that holds now. ``silent_since``: since when this node's storage does not answer."""
    if why := going_down(world, node, boot_id):
        return HostPlan(OnHostShutdown.RETURN, why)
    desired = world.node_spec(node)
    chosen = desired.record.on_host_shutdown if desired is not None and desired.record is not None else None
    policy = chosen or world.config.on_host_shutdown
    if policy is not OnHostShutdown.RELEASE:
        return HostPlan(policy)
    if why := paused(world):
        return HostPlan(OnHostShutdown.RETURN, why)
    if silent_since:
        # Nobody can tell whether a guest's last writes are on the disk: it goes on where they were made.
        return HostPlan(OnHostShutdown.RETURN, f"the storage is silent since {silent_since}")
    return HostPlan(policy)


def fate(engine: PlacementEngine, node: str, policy: OnHostShutdown, vm: VmId) -> HostStop | None:
    """What becomes of a VM of this node; None: nothing is done about it."""
    if policy is OnHostShutdown.LEAVE:
        return None
    found = engine.world.spec(vm)
    spec = found.record if found is not None and wants_on(engine.world, vm) else None
    if policy is OnHostShutdown.RETURN or spec is None:
        return HostStop.KEEP
    return HostStop.RELEASE if taker(engine, node, spec) else HostStop.KEEP


def patience_s(world: ClusterState) -> float:
    """How long guests have to stop."""
    return min(float(world.config.stop_timeout_s), STOP_MAX_S)
