"""The transactions around a disk's beginning and its end, each with the argument for its guards.

Owns: what is compared and written when a disk was made, goes to the trash, comes back, or goes for good.
Refuses: deciding when (:mod:`metastack.agent.upkeep.removal`, :mod:`metastack.agent.reconcile.vm_disk`).
Rule: a record is ahead of every removal and behind every creation. So whatever a crash leaves is named.
"""

from __future__ import annotations

import msgspec

from ..model import Claim, Counted, Trashed, VmId, VmSpec, Volume
from ..state.cluster_state import Seen
from ..state.codec import encode
from ..state.keys import Keys
from ..transaction import Delete, Put, Transaction
from .guards import Extra, OwnSession, absent, in_session, puts_of, unchanged


def made(
    keys: Keys,
    me: OwnSession,
    vm: VmId,
    held: Seen[Claim],
    found: Seen[Volume] | None,
    record: Volume,
    cluster_id: str,
    trashed: Seen[Trashed] | None = None,
    extra: Extra = (),
) -> Transaction:
    """Write down that a VM's disk is there: from now on it is made no second time.

    Safety: after the storage said so. The claim is mine and unchanged, so nobody else makes or removes it; the
    record is as I read it, so a person's order to make it again is never overwritten by an older answer.
    ``cluster_id``: whose mark it bears now. ``trashed``: it came out of the trash, whose record goes with this.
    """
    key = keys.volume(record.project, record.uuid)
    guards = [unchanged(keys.claim(vm), held), unchanged(key, found), in_session(keys, me)]
    whole = msgspec.structs.replace(record, made=True, cluster_id=cluster_id)
    effects: list[Put | Delete] = [Put(key, encode(whole))]
    if trashed is not None:
        guards.append(unchanged(keys.trash(record.uuid), trashed))
        effects.append(Delete(keys.trash(record.uuid)))
    return Transaction(name="made", guards=tuple(guards), effects=(*effects, *puts_of(extra)))


def trash(
    keys: Keys, me: OwnSession, volume: Seen[Volume], record: Trashed, old: Seen[Trashed] | None
) -> Transaction:
    """Say what goes to the trash, and until when.

    Safety: before it is moved, so that nothing of ours lies there without a record. The volume's record is the
    one that was decided on: a node that uses the disk again writes that record.
    """
    key = keys.trash(record.uuid)
    guards = (
        unchanged(keys.volume(volume.ok.project, volume.ok.uuid), volume),
        unchanged(key, old),
        in_session(keys, me),
    )
    return Transaction(name="trash", guards=guards, effects=(Put(key, encode(record)),))


def rename(
    keys: Keys, me: OwnSession, volume: Seen[Volume], vm: VmId, spec: Seen[VmSpec], own: Seen[Volume] | None
) -> Transaction:
    """Somebody renamed a VM by hand: the record of its disk follows.

    Safety: the VM of the old name has no claim, so nobody runs it; the spec is the one that names this disk,
    and has the VM's UUID. ``own``: what that VM has for a record in its own project; it stays as it is.
    """
    old, new = volume.ok, spec.ok
    here, there = keys.volume(old.project, old.uuid), keys.volume(new.project, old.uuid)
    guards = [
        unchanged(here, volume),
        absent(keys.claim(vm)),
        absent(keys.vm_spec(vm)),
        unchanged(keys.vm_spec(new.id), spec),
        in_session(keys, me),
    ]
    effects: list[Put | Delete] = []
    if there != here:
        guards.append(unchanged(there, own))
        effects.append(Delete(here))
    if own is None:
        effects.append(Put(there, encode(msgspec.structs.replace(old, project=new.project, vm=new.name))))
    return Transaction(name="rename_disk", guards=tuple(guards), effects=tuple(effects))


def forget_trash(keys: Keys, me: OwnSession, found: Seen[Trashed], extra: Extra = ()) -> Transaction:
    """Drop the record of what is gone for good. After the removal: a crash in between repeats it."""
    key = keys.trash(found.ok.uuid)
    return Transaction(
        name="forget_trash",
        guards=(unchanged(key, found), in_session(keys, me)),
        effects=(Delete(key), *puts_of(extra)),
    )


def count(keys: Keys, me: OwnSession, found: Seen[Counted] | None, seconds: float) -> Transaction:
    """Add what this node has counted since it saw the number.

    Safety: unchanged since I saw it, so no second is counted by two nodes.
    """
    before = found.ok.seconds if found is not None else 0.0
    return Transaction(
        name="count",
        guards=(unchanged(keys.counted(), found), in_session(keys, me)),
        effects=(Put(keys.counted(), encode(Counted(seconds=before + seconds, by=me.node))),),
    )
