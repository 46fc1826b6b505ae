"""Verbs for scenarios: what is done to claims, fences, disks and QEMUs behind every agent's back.

Owns: these verbs. Refuses: being counted by coverage, and choosing when: that is a scenario's.
"""

from __future__ import annotations

from functools import partial

import msgspec

from ....core.domains import Opener
from ....core.model import BreakLock, Claim, Fence, FenceReceipt, VmId, VmStatus, token
from ....core.protocol import broken_locks as locks
from ....core.state.cluster_state import seen
from ....core.transaction import Lost
from ..engine.host import EPOCH_S
from ..engine.lab import Lab
from .verbs import Undo, fault, host_of, nothing


@fault("claim-deleted", "cluster")
def _claim_deleted(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A person deletes a claim: ``etcdctl del /metastack/claims/default/vm1``."""
    key = lab.keys.claim(VmId("default", args[0]))
    if lab.cluster.get(key) is None:
        return None
    lab.delete(key)
    return nothing


@fault("fence-forged", "cluster")
def _fence_forged(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A record says that a fence was done in our storage, and nothing is blocked: ``fence-forged n1``."""
    key = lab.keys.fence(args[0])
    entry = lab.cluster.get(key)
    old = seen(Fence, entry).ok if entry is not None else Fence()
    receipt = FenceReceipt(
        at="", by="n9", method="forged", verified="nothing is blocked", storage=lab.pool.place
    )
    through = token(old.generation, lab.cluster.revision)
    lab.put(key, msgspec.structs.replace(old, through=through, receipt=receipt, intent=False, intent_by=""))
    return nothing


@fault("libvirtd-loses", "node", lasts=True)
def _libvirtd_loses(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """libvirtd restarts without its note of a guest, ``libvirtd-loses n1 vm1``, or all that it knew of it
    (``whole``). At the end a person ends that QEMU."""
    hypervisor = host_of(lab, args).hypervisor
    found = [d.uuid for d in hypervisor.active() if d.managed and d.name == args[1]]
    for uuid in found:
        hypervisor.lose(uuid, whole="whole" in args)
    if not found:
        return None
    hypervisor.daemon_dies()
    hypervisor.daemon_returns()
    return partial(hypervisor.lost_ends, found[0])


def _stranger(lab: Lab, args: tuple[str, ...], opener: Opener) -> Undo | None:
    spec = lab.operator.spec(args[0])
    if spec is None:
        return None
    lab.strangers[opener.client] = (spec.volume_uuid, opener)

    def close() -> None:
        lab.strangers.pop(opener.client, None)

    return close


@fault("disk-opened", "cluster", lasts=True)
def _disk_opened(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Somebody opens a VM's disk (``rbd map``, a backup) from an address: ``disk-opened vm1 10.0.0.2``."""
    client = f"{args[1]}:0/777"
    return _stranger(lab, args, Opener(client=client, address=args[1], locking=True))


@fault("break-lock", "cluster")
def _break_lock(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A person asks to have whoever is in the way shut out: ``metastack vm break-lock vm1``."""
    vm, keys = VmId("default", args[0]), lab.keys
    claim, status = lab.cluster.get(keys.claim(vm)), lab.cluster.get(keys.vm_status(vm))
    if claim is None or status is None:
        return None
    held, said = seen(Claim, claim), seen(VmStatus, status).ok
    at_ms = int((EPOCH_S + lab.loop.time()) * 1000)
    request = BreakLock(
        uuid=held.ok.uuid, claim=held.mod, client=said.disk_held_by, at_ms=at_ms, by="me", reason="it is gone"
    )
    return None if isinstance(lab.cluster.apply(locks.ask(keys, vm, held, request)), Lost) else nothing


@fault("disk-locked", "cluster", lasts=True)
def _disk_locked(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Somebody locks a VM's disk by hand (``rbd lock add``): ``disk-locked vm1 10.0.0.9``."""
    client = f"{args[1]}:0/888"
    locked = Opener(client=client, address=args[1], watching=False, locking=True, by_hand=True)
    return _stranger(lab, args, locked)
