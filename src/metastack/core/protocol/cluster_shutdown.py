"""A shutdown of the whole cluster: every host that runs now stops its guests and keeps its VMs.

Owns: whether it concerns a node, and the transactions that begin and end it.
Refuses: clocks, and switching hosts off, which is a person's work.
Rule: it names the boot of each host. A host that has booted since is through with it: it boots its VMs again,
also while the record is there, whatever became of etcd's leases meanwhile.

It protects no disk. Without it, VMs of the first host that goes down start on the next one, and go down again.
"""

from __future__ import annotations

from ..model import ClusterShutdown
from ..state.cluster_state import ClusterState, Seen
from ..state.codec import encode
from ..state.keys import Keys
from ..transaction import Delete, Put, Transaction
from .guards import unchanged


def going_down(world: ClusterState, node: str, boot_id: str) -> str:
    """Why this boot of a node stops its guests; empty: it is not asked to."""
    found = world.cluster_shutdown()
    if found is None or found.record is None or found.record.boots.get(node) != boot_id:
        return ""
    return f"shutdown of the cluster: {found.record.reason} ({found.record.by})"


def begin(keys: Keys, found: Seen[ClusterShutdown] | None, record: ClusterShutdown, lease: int) -> Transaction:
    """Begin it, or replace the one that is on.

    Safety: under ``lease``, which nobody renews: hosts that are still up at its end start their VMs again.
    """
    return Transaction(
        name="begin_cluster_shutdown",
        guards=(unchanged(keys.cluster_shutdown(), found),),
        effects=(Put(keys.cluster_shutdown(), encode(record), leased=True),),
        lease=lease,
    )


def end(keys: Keys, found: Seen[ClusterShutdown]) -> Transaction:
    """End it early. Safety: the one that was looked at, and none that another person began since."""
    return Transaction(
        name="end_cluster_shutdown",
        guards=(unchanged(keys.cluster_shutdown(), found),),
        effects=(Delete(keys.cluster_shutdown()),),
    )
