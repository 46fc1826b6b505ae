"""The verbs of planned work, for scenarios: ``maintenance`` and ``shut-down``.

Owns: the verbs. Refuses: their rules; those are core/protocol/maintenance and core/host_shutdown.
"""

from __future__ import annotations

from ....core.model import ClusterShutdown, Maintenance
from ....core.protocol import cluster_shutdown
from ....core.protocol.maintenance import begin, end
from ....core.state.cluster_state import seen
from ....core.transaction import Committed
from ..engine.lab import Lab
from .verbs import Undo, fault, host_of, nothing


@fault("maintenance", "cluster")
def _maintenance(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A person begins a maintenance of N seconds, or ends it: ``maintenance 40``, ``maintenance off``."""
    entry = lab.cluster.get(lab.keys.maintenance())
    found = seen(Maintenance, entry) if entry is not None else None
    if args == ("off",):
        if found is None:
            return None
        return nothing if isinstance(lab.by_hand(end(lab.keys, found)), Committed) else None
    ttl_s = int(args[0])
    record = Maintenance(by="operator", reason="a switch is replaced", ttl_s=ttl_s)
    change = begin(lab.keys, found, record, lab.cluster.grant(ttl_s))
    return nothing if isinstance(lab.by_hand(change), Committed) else None


@fault("cluster-shutdown", "cluster")
def _cluster_shutdown(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A person shuts the cluster down within N seconds, or cancels that: ``cluster-shutdown 60``."""
    entry = lab.cluster.get(lab.keys.cluster_shutdown())
    found = seen(ClusterShutdown, entry) if entry is not None else None
    if args == ("cancel",):
        if found is None:
            return None
        return nothing if isinstance(lab.by_hand(cluster_shutdown.end(lab.keys, found)), Committed) else None
    ttl_s = int(args[0])
    boots = {host.node: f"{host.name}-boot-{host.boots}" for host in lab.hosts.values() if host.powered}
    record = ClusterShutdown(by="operator", reason="work on the mains", boots=boots, ttl_s=ttl_s)
    change = cluster_shutdown.begin(lab.keys, found, record, lab.cluster.grant(ttl_s))
    return nothing if isinstance(lab.by_hand(change), Committed) else None


@fault("shut-down", "node", lasts=True)
def _shut_down(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A host shuts down in order, and boots at the end."""
    host = host_of(lab, args)

    def boots() -> None:
        host.power_cut()  # it has had its time
        host.power_on()

    return boots if host.shut_down() else None
