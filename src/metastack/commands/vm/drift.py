"""What a command says to a guest that writes elsewhere than on its disk.

Owns: the refusal. Refuses: finding out; the node that runs the guest publishes it.
"""

from __future__ import annotations

from metastack.core.model import VmId, VmStatus

from ..problem import conflict
from ..request import Cluster
from .specs import label_of


async def refuse_drift(cluster: Cluster, vm: VmId, discard: bool) -> None:
    """Raise Problem when ending the guest would leave behind what it wrote, unless that is given up."""
    found = await cluster.read(VmStatus, cluster.keys.vm_status(vm))
    status = found.record if found is not None else None
    if status is None or not status.elsewhere or discard:
        return
    raise conflict(
        label_of(vm),
        f"writes to {status.elsewhere} on {status.node} instead of its disk: those writes would be lost",
        f"merge it on {status.node}, such as with `virsh blockcommit --active --pivot`, or discard it with "
        "--discard-drift",
    )
