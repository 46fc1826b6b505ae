"""Durable facts that agents write: claims, fences, halts, volumes, what a node is.

Rule: none of them hangs on a lease. Were it to die with one, nobody would know whom to fence.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from .desired import VmSpec
from .numbers import Record, token
from .storage import StoragePlace


class Claim(Record, frozen=True, kw_only=True):
    """``claims/<project>/<vm>``: the node session that owns a VM. Durable, never leased."""

    v: int = 3
    node: str
    session: int
    """Token of the node session that answers."""
    uuid: str
    """The VM's, so that a later VM of the same name is never confused with this one."""
    volume_uuid: str
    claim_id: str
    """Random: tells a lost reply from a lost race."""
    generation: int = 0
    """Cluster generation when the claim was put."""
    epoch: int = 0
    """Token. Stored as 0 by claim and takeover, meaning "the revision of this put" (CE4)."""
    taken_from: str = ""
    """After a takeover: the node that lost the VM."""
    taken_before: tuple[str, ...] = ()
    """After a takeover: nodes that lost the VM before that one, since it was claimed. None of them may write
    either, and the node in between may never have found out whether they do."""
    was_paused: bool = False
    """After a takeover: the VM was paused there; it runs again here, and says so."""
    to_release: bool = False
    """Taken over only to be released: nobody proved that the VM may run here, whatever its spec says since."""


class FenceReceipt(Struct, frozen=True, kw_only=True):
    """What was done to shut a node out, and how it was verified."""

    at: str
    by: str
    method: str
    """``ceph-blocklist``, ``ceph-blocklist-clients`` (single clients: nodes share an address), or
    ``image-lock`` (the file backend: nothing is blocked remotely)."""
    addresses: tuple[str, ...] = ()
    """Whole addresses that were blocked."""
    clients: tuple[str, ...] = ()
    """Single clients that were blocked, ``ADDRESS:PORT/NONCE`` each."""
    users: tuple[str, ...] = ()
    """cephx users that lost their rights, so that no new client of theirs opens a disk."""
    osd_epoch: int = 0
    """OSD map that carries the block, as waited for."""
    verified: str = ""
    reason: str = ""
    storage: StoragePlace | None = None
    """In which storage it was done, as that storage says; None: an older writer."""


class Fence(Record, frozen=True, kw_only=True):
    """``fences/<node>``: every session up to ``through`` is shut out of the storage. Only grows."""

    v: int = 3
    through: int = 0
    """Token: of the last *done* fence."""
    intent_by: str = ""
    """Node that is fencing right now; empty: no intent open."""
    intent_session: int = 0
    """The fencer's session."""
    intent: bool = False
    """An intent is open; its own ``through`` is the revision of the put that opened it ..."""
    intent_through: int = 0
    """... kept here by a fencer that takes the intent over; 0 means "this put's revision"."""
    generation: int = 0
    receipt: FenceReceipt | None = None
    intent_at: str = ""
    """When the intent was opened, RFC 3339 UTC; for people only."""
    intent_reason: str = ""
    """Why a person asked for it, or since when its storage was silent; empty: the lease expired."""


class Silenced(Record, frozen=True, kw_only=True):
    """``silenced``: the node that was fenced last although it lived. Changes with every such fence, so that
    there is never more than one at a time."""

    node: str
    by: str
    """Node that opened the fence."""
    at: str = ""
    """RFC 3339 UTC; for people only."""
    reason: str = ""


class NodeFacts(Record, frozen=True, kw_only=True):
    """``nodes/<node>``: durable facts that outlive the lease; what a fencer needs to know."""

    v: int = 3
    name: str
    uuid: str
    storage_addresses: tuple[str, ...] = ()
    """Every address the node may use towards the storage. Added before first use."""
    storage_clients: tuple[str, ...] = ()
    """Its agent's own clients of the storage, ``ADDRESS:PORT/NONCE``: the last few, the newest last."""
    storage_guest_user: str = ""
    """cephx user of its guests when that is not its agent's own; empty: it is."""
    joined: str = ""
    generation: int = 0
    """Of the session in which it was last written: whether the node came back since etcd was restored."""
    boot_id: str = ""
    """Boot of the machine that had the last session; empty: written by an older version."""


class Removal(Record, frozen=True, kw_only=True):
    """``removals/<node>``: leased. A person is about to forget this node; its next registration deletes it."""

    by: str
    at: str = ""


class Halt(Record, frozen=True, kw_only=True):
    """``halts/<project>/<vm>``: the guest switched itself off in this run; it stays off until ``vm start``."""

    uuid: str
    run: int
    at: str
    node: str
    message: str = ""


def is_halted(spec: VmSpec | None, halt: Halt | None) -> bool:
    """True when the guest switched itself off in this run of that very VM; a later run voids the halt."""
    return spec is not None and halt is not None and halt.uuid == spec.uuid and halt.run >= spec.run


class Group(Record, frozen=True, kw_only=True):
    """``groups/<project>/<group>/<domain>``: changes with every claim into that domain that the group's rule
    bears on, so that two such claims, decided from the same view, cannot both be committed."""

    vm: str
    """The last that claimed; of a rule version (:mod:`metastack.core.protocol.rule_versions`) whose rule."""


class Volume(Record, frozen=True, kw_only=True):
    """``actual/volumes/<project>/<uuid>``: a disk that exists or may exist; written before the disk is made."""

    v: int = 3
    uuid: str
    project: str
    vm: str
    vm_uuid: str
    size_bytes: int
    image_uuid: str
    pool: str = ""
    trash_retention_s: int = 86_400
    last_node: str = ""
    """Where the VM ran last, written when its claim is released."""
    made: bool | None = None
    """The disk was made: from then on its absence is a loss, and it is made no second time. None: an older
    writer, who knows; as good as made, for the record is written in the claim's transaction."""
    cluster_id: str = ""
    """Whose mark the disk bears; empty: none yet, and one of ours without a mark may be marked and removed."""


def resolved_claim(claim: Claim, mod_revision: int) -> Claim:
    """The claim with its epoch as a number (stored 0 means the put's own revision)."""
    if claim.epoch:
        return claim
    return msgspec.structs.replace(claim, epoch=token(claim.generation, mod_revision))


def resolved_intent(fence: Fence, mod_revision: int) -> int:
    """The ``through`` an open intent will reach when done; 0 when none is open."""
    if not fence.intent:
        return 0
    return fence.intent_through or token(fence.generation, mod_revision)
