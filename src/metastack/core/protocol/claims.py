"""Every guarded transaction of sessions and claims, each with the argument for its guards.

Owns: what is compared and written when a node registers, claims, takes over, adopts or releases.
Refuses: deciding *when*; that is :mod:`metastack.core.plan`.
Fences are in :mod:`metastack.core.protocol.fences`.
Rule: a change carries its whole proof. ``alive = S`` (the create revision of the node's alive key) is in every
change that only a living session may make: a node that lost its lease can still send, but not commit.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..model import (
    Claim,
    Event,
    Fence,
    Generation,
    Group,
    Halt,
    NodeAlive,
    NodeFacts,
    Penalty,
    Record,
    StorageIdentity,
    VmId,
    VmSpec,
    VmStatus,
    Volume,
)
from ..state.cluster_state import Seen
from ..state.codec import encode
from ..state.keys import Keys
from ..transaction import Delete, Put, Transaction
from .fences import closed
from .group_versions import GroupVersions, compare_and_change
from .guards import Extra, OwnSession, absent, in_session, puts_of, unchanged
from .maintenance import unpaused
from .rule_versions import RuleVersions, compare_rule_versions

# --- sessions -------------------------------------------------------------------------------------------


def register(
    keys: Keys, alive: NodeAlive, lease: int, fence: Seen[Fence] | None, since: Seen[Generation] | None = None
) -> Transaction:
    """Begin a session: its number is the create revision of the key that this puts.

    Safety: the alive key must be absent, since a put over a living key keeps its create revision (CE8).
    ``fences/me`` unchanged: a fence that was decided on since this node looked makes it look again. An open
    intent whose fencer is not alive is cancelled here, since waiting for it would never end (CE2). Its ``done``
    compares the fence's revision, so a fencer that comes back too late cannot finish it. The generation is the
    one that this session's number begins with.
    """
    key, me = keys.fence(alive.name), keys.node_alive(alive.name)
    guards = [absent(me), unchanged(key, fence), unchanged(keys.generation(), since)]
    effects: list[Put | Delete] = [
        Put(me, encode(alive), leased=True),
        Delete(keys.refusal(alive.name)),
        # Safety: a removal of this node that is under way fails: the node has had another session.
        Delete(keys.removal(alive.name)),
        # It is back: from now on it is fenced like any other.
        Delete(keys.host_return(alive.name)),
    ]
    if fence is not None and fence.ok.intent:
        effects.append(Put(key, encode(closed(fence.ok))))
    return Transaction(name="register", guards=tuple(guards), effects=tuple(effects), lease=lease)


def declare(keys: Keys, me: OwnSession, facts: NodeFacts, found: Seen[NodeFacts] | None) -> Transaction:
    """Write down the storage addresses before the first of them is used in this session.

    Safety: a fencer reads them *after* its intent committed, and the intent needs this node dead; ``alive = S``
    makes sure that no address is added behind its back.
    """
    key = keys.node_facts(me.node)
    return Transaction(
        name="declare",
        guards=(in_session(keys, me), unchanged(key, found)),
        effects=(Put(key, encode(facts)),),
    )


def announce(keys: Keys, me: OwnSession, alive: NodeAlive, extra: Extra = ()) -> Transaction:
    """Publish the node's state; the first with ``ready=True`` makes the session ready.

    Safety: ``alive = S``. Only after this node's unblock was confirmed, or it saw that it is not blocked; one
    way within a session (CE1).
    """
    return Transaction(
        name="ready" if alive.ready else "announce",
        guards=(in_session(keys, me),),
        effects=(Put(keys.node_alive(me.node), encode(alive), leased=True), *puts_of(extra)),
        lease=me.lease,
    )


def move_to_lease(
    keys: Keys, me: OwnSession, lease: int, alive: NodeAlive, statuses: Iterable[tuple[str, VmStatus | None]]
) -> Transaction:
    """Move what this session publishes to another lease.

    Safety: ``alive = S``; a put over a living key keeps its create revision, so the session stays the same.
    """
    puts = [Put(keys.node_alive(me.node), encode(alive), leased=True)]
    puts += [Put(key, encode(status), leased=True) for key, status in statuses if status is not None]
    return Transaction(name="relet", guards=(in_session(keys, me),), effects=tuple(puts), lease=lease)


# --- claims ---------------------------------------------------------------------------------------------


def recall(keys: Keys, me: OwnSession, found: Seen[NodeFacts]) -> Transaction:
    """Write this node's record once more, as it is: no claim that it sent before can be committed now.

    Safety: what a node proves of itself (its capacity, which VMs may share it) it proves when it sends a claim.
    One whose answer never came may arrive after that capacity was given to another. Every claim compares this
    record.
    """
    key = keys.node_facts(me.node)
    return Transaction(
        name="recall",
        guards=(in_session(keys, me), unchanged(key, found)),
        effects=(Put(key, encode(found.ok)),),
    )


def claim(
    keys: Keys,
    me: OwnSession,
    vm: VmId,
    spec: Seen[VmSpec],
    new: Claim,
    status: VmStatus,
    volume: Volume | None,
    facts: Seen[NodeFacts] | None,
    extra: Extra = (),
    group_versions: GroupVersions = (),
    rule_versions: RuleVersions = (),
) -> Transaction:
    """Own a VM that no session owns.

    Safety: claim absent, so one wins; the spec is the one that was decided on; ``alive = S``. The epoch is
    stored as 0, "the revision of this put": a number chosen before could repeat (CE4). The volume's record is
    written here, before the disk exists, so that nothing is ever made that no record leads to. ``facts``: this
    node's record, which :func:`recall` moves. ``rule_versions``: as they were seen, so that no group rule came
    meanwhile.
    """
    compared, version_puts = compare_and_change(group_versions, vm)
    guards = [
        absent(keys.claim(vm)),
        unchanged(keys.vm_spec(vm), spec),
        in_session(keys, me),
        unchanged(keys.node_facts(me.node), facts),
        *compared,
        *compare_rule_versions(rule_versions),
    ]
    effects: list[Put | Delete] = [
        Put(keys.claim(vm), encode(new)),
        Put(keys.vm_status(vm), encode(status), leased=True),
        *version_puts,
    ]
    if volume is not None:
        # Safety: two specs that name one disk are never both claimed.
        guards.append(absent(keys.volume(volume.project, volume.uuid)))
        effects.append(Put(keys.volume(volume.project, volume.uuid), encode(volume)))
    return Transaction(
        name="claim",
        guards=tuple(guards),
        effects=(*effects, *puts_of(extra)),
        lease=me.lease,
    )


def takeover(
    keys: Keys,
    me: OwnSession,
    vm: VmId,
    old: Seen[Claim],
    fence: Seen[Fence],
    spec: Seen[VmSpec] | None,
    new: Claim,
    status: VmStatus,
    facts: Seen[NodeFacts] | None,
    extra: Extra = (),
    group_versions: GroupVersions = (),
    rule_versions: RuleVersions = (),
    storage: Seen[StorageIdentity] | None = None,
    flaw: str = "",
) -> Transaction:
    """Own a VM whose node was shut out of the storage.

    Safety: the fence record is unchanged and says done through the claim's session; the claim and the spec are
    the ones that were decided on. A VM whose spec is gone is taken over too, to be released. ``facts``:
    this node's record, which :func:`recall` moves; ``rule_versions`` as in :func:`claim`. ``storage``: what the
    receipt was compared with, unchanged; ``flaw``: what that found; nothing also when the victim has registered
    above the fence, which stays true. No maintenance, in this transaction too.
    """
    if fence.ok.through < old.ok.session:
        raise ValueError(f"takeover of {vm}: session {old.ok.session} of {old.ok.node} is not fenced")
    if flaw:
        raise ValueError(f"takeover of {vm}: the fence of {old.ok.node} is not valid: {flaw}")
    compared, version_puts = compare_and_change(group_versions, vm)
    return Transaction(
        name="takeover",
        guards=(
            unchanged(keys.claim(vm), old),
            unchanged(keys.vm_spec(vm), spec),
            unchanged(keys.fence(old.ok.node), fence),
            unchanged(keys.storage(), storage),
            in_session(keys, me),
            unpaused(keys),
            unchanged(keys.node_facts(me.node), facts),
            *compared,
            *compare_rule_versions(rule_versions),
        ),
        effects=(
            Put(keys.claim(vm), encode(new)),
            Put(keys.vm_status(vm), encode(status), leased=True),
            *version_puts,
            *puts_of(extra),
        ),
        lease=me.lease,
    )


def adopt(
    keys: Keys, me: OwnSession, vm: VmId, old: Seen[Claim], status: VmStatus, extra: Extra = ()
) -> Transaction:
    """Bring this node's claim of an older session into this one; the VM never stopped and keeps its epoch.

    Safety: only a claim whose session is not fenced (the caller's plan says so, and it may not change
    while this node lives: an intent needs its alive key absent). Stored epoch 0 becomes a number here: this put
    has another revision.
    """
    new = msgspec.structs.replace(old.ok, session=me.session)
    return Transaction(
        name="adopt",
        guards=(unchanged(keys.claim(vm), old), in_session(keys, me)),
        effects=(
            Put(keys.claim(vm), encode(new)),
            Put(keys.vm_status(vm), encode(status), leased=True),
            *puts_of(extra),
        ),
        lease=me.lease,
    )


def publish(
    keys: Keys, me: OwnSession, vm: VmId, held: Seen[Claim], status: VmStatus, extra: Extra = ()
) -> Transaction:
    """Say how a VM of this node is doing. Safety: only its claimant in a living session may."""
    return Transaction(
        name="publish",
        guards=(unchanged(keys.claim(vm), held), in_session(keys, me)),
        effects=(Put(keys.vm_status(vm), encode(status), leased=True), *puts_of(extra)),
        lease=me.lease,
    )


def halt(
    keys: Keys,
    me: OwnSession,
    vm: VmId,
    held: Seen[Claim],
    spec: Seen[VmSpec],
    record: Halt,
    status: VmStatus,
    extra: Extra = (),
) -> Transaction:
    """Record for good that the guest switched itself off, before its claim is released.

    Safety: durable and before the release, so that this node's death in between does not start the VM
    elsewhere. The spec is unchanged: a ``vm start`` that came meanwhile wins.
    """
    return Transaction(
        name="halt",
        guards=(unchanged(keys.claim(vm), held), unchanged(keys.vm_spec(vm), spec), in_session(keys, me)),
        effects=(
            Put(keys.halt(vm), encode(record)),
            Put(keys.vm_status(vm), encode(status), leased=True),
            *puts_of(extra),
        ),
        lease=me.lease,
    )


def release(
    keys: Keys,
    me: OwnSession,
    vm: VmId,
    held: Seen[Claim],
    drop_halt: bool,
    extra: Extra = (),
    disk: Seen[Volume] | None = None,
) -> Transaction:
    """Own a VM no longer.

    Safety: the caller has seen the domain undefined and no call in flight for it. ``disk``: its record,
    unchanged; it keeps where the VM ran last.
    """
    guards = [unchanged(keys.claim(vm), held), in_session(keys, me)]
    effects: list[Put | Delete] = [Delete(keys.claim(vm)), Delete(keys.vm_status(vm))]
    if drop_halt:
        effects.append(Delete(keys.halt(vm)))
    if disk is not None and disk.ok.last_node != me.node:
        key = keys.volume(disk.ok.project, disk.ok.uuid)
        guards.append(unchanged(key, disk))
        effects.append(Put(key, encode(msgspec.structs.replace(disk.ok, last_node=me.node))))
    return Transaction(
        name="release",
        guards=tuple(guards),
        effects=(*effects, *puts_of(extra)),
    )


def give_back(
    keys: Keys,
    me: OwnSession,
    vm: VmId,
    held: Seen[Claim],
    spec: Seen[VmSpec],
    penalty: Penalty,
    lease: int,
    extra: Extra = (),
) -> Transaction:
    """Give a VM back that cannot be started here, and have it pass over this node for a while.

    Safety: as :func:`release`. In one transaction, so that a crash leaves it here or gives it back with its
    penalty, and nobody claims it in between. The spec is the one that could not be started: a person who
    changed it, or asked for a start, wants it tried. ``lease``: of its own, for the penalty outlives this
    session.
    """
    return Transaction(
        name="give_back",
        guards=(unchanged(keys.claim(vm), held), unchanged(keys.vm_spec(vm), spec), in_session(keys, me)),
        effects=(
            Delete(keys.claim(vm)),
            Delete(keys.vm_status(vm)),
            Put(keys.penalty(vm, me.node), encode(penalty), leased=True),
            *puts_of(extra),
        ),
        lease=lease,
    )


def forget_halt(
    keys: Keys, me: OwnSession, vm: VmId, found: Seen[Halt], spec: Seen[VmSpec] | None
) -> Transaction:
    """Drop a halt whose VM is gone or was started again. Safety: the spec is the one that voids it."""
    return Transaction(
        name="forget_halt",
        guards=(unchanged(keys.halt(vm), found), unchanged(keys.vm_spec(vm), spec), in_session(keys, me)),
        effects=(Delete(keys.halt(vm)),),
    )


def forget_volume(keys: Keys, me: OwnSession, found: Seen[Volume], vm: VmId, extra: Extra = ()) -> Transaction:
    """Drop the record of a disk that was removed. After the removal: a crash in between repeats it."""
    key = keys.volume(found.ok.project, found.ok.uuid)
    return Transaction(
        name="forget_volume",
        guards=(unchanged(key, found), in_session(keys, me)),
        effects=(Delete(key), *puts_of(extra)),
    )


def forget_group_version(keys: Keys, me: OwnSession, key: str, found: Seen[Group]) -> Transaction:
    """Drop a group version that no claim bears. Safety: unchanged since that was seen, so no claim came
    meanwhile."""
    guards = (unchanged(key, found), in_session(keys, me))
    return Transaction(name="forget_token", guards=guards, effects=(Delete(key),))


def event_of(keys: Keys, at_ms: int, ident: str, event: Event) -> tuple[str, Record]:
    """An event as an extra of a change."""
    return keys.event(at_ms, ident), event
