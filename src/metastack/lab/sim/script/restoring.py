"""Verbs about an etcd that is restored from a backup, for scenarios: what happens, and what a person does then.

Owns: these verbs. Refuses: choosing when: that is a scenario's, or lab/sim/script/rare_faults.py's.
Rule: what the judges know of etcd is what etcd says from then on; what they know of the disks stays.
"""

from __future__ import annotations

from ....core.model import Generation, NodeFacts, Refusal, VmSpec, Volume
from ....core.protocol.restored import raise_generation
from ....core.state.cluster_state import seen
from ....core.state.keys import Kind
from ....core.transaction import Committed
from ..engine.lab import Lab
from .verbs import Undo, fault, nothing


@fault("etcd-restored", "cluster")
def _etcd_restored(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """etcd is restored from a backup of second N, for good: ``etcd-restored 10 [same-id] [ahead]``.

    ``same-id``: with the members and the token of before, so that its cluster id is the same. ``ahead``: people
    write to it before any agent looks, so that its revision is higher than any that was seen.
    """
    known, before = _disks(lab)
    lab.cluster.restore_as_of(float(args[0]), same_id="same-id" in args)
    if "ahead" in args:
        key = lab.keys.node_spec("nobody")
        while lab.cluster.revision < lab.cluster.highest:
            lab.delete(key) if lab.cluster.get(key) else lab.operator.cordon("nobody", False)
        lab.delete(key)
    kept, wanted = _disks(lab)
    # Unknown now, or being made. And of VMs that were deleted since: the order to remove one may still land,
    # and they get fresh ones, if they run at all.
    lab.forgotten |= ((known | set(lab.pool.disks)) - kept) | (wanted - before)
    return nothing


def _disks(lab: Lab) -> tuple[set[str], set[str]]:
    """Those that have a record, and those of VMs that there are."""
    volumes = [seen(Volume, entry).record for entry in lab.cluster.under(lab.keys.prefix(Kind.VOLUME))]
    specs = [seen(VmSpec, entry).record for entry in lab.cluster.under(lab.keys.prefix(Kind.VM_SPEC))]
    return {v.uuid for v in volumes if v is not None}, {s.volume_uuid for s in specs if s is not None}


@fault("cluster-restore", "cluster")
def _cluster_restore(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A person says that the restored etcd is to be used (``metastack cluster restore``)."""
    cluster, keys = lab.cluster, lab.keys
    entry = cluster.get(keys.generation())
    found = seen(Generation, entry) if entry is not None else None
    refusals = [seen(Refusal, e).ok for e in cluster.under(keys.prefix(Kind.REFUSAL))]
    known = [found.ok.generation if found is not None else 0, *(refusal.generation for refusal in refusals)]
    facts = {refusal.name: cluster.get(keys.node_facts(refusal.name)) for refusal in refusals}
    pairs = [(r, seen(NodeFacts, e) if (e := facts[r.name]) is not None else None) for r in refusals]
    change = raise_generation(keys, found, max(known) + 1, pairs)
    return nothing if isinstance(cluster.apply(change), Committed) else None
