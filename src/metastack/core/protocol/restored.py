"""After a restore: etcd is older than what the machines do, until every node has come back or is fenced.

Owns: which nodes are still waited for, which of a node's own domains the restored records cover, and the
transaction that raises the generation. Refuses: deciding that etcd was restored: agents notice it, a person
says so.
Rule: claims of an older generation are believed only where a running domain proves them (its epoch is the
claim's). Whatever needs somebody else's absence (a claim, a takeover, a boot) waits. It waits until every node
that any record knows has registered in this generation, having killed what its claims do not cover, or was
fenced in it.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ..domains import Domain
from ..model import Generation, NodeFacts, Refusal, VmId, token_generation
from ..state.cluster_state import ClusterState, Seen, mod_of
from ..state.codec import encode
from ..state.fence_proof import UNBLOCKED
from ..state.keys import Keys, Kind
from ..transaction import Delete, Guard, Put, Transaction


def waits_for(world: ClusterState) -> tuple[str, ...]:
    """Nodes that may still run something that this history does not know; empty: none.

    Safety: a node counts as back by its durable record, written in a session of this generation, so after it
    killed what its claims do not cover; as fenced by a ``through`` of this generation, so by a block that was
    made after the restore. One that nobody can read counts as neither.
    """
    since = _since(world)
    if not since:
        return ()
    known = {names[0] for kind in (Kind.NODE_FACTS, Kind.REFUSAL) for names in world.names(kind)}
    return tuple(sorted(node for node in known if not _is_back(world, node, since)))


def _since(world: ClusterState) -> int:
    """The generation that nodes must have come back in. One that cannot be read is what the nodes say it is."""
    found = world.generation_seen()
    if found is None or found.record is not None:
        return world.generation
    facts = [world.facts(names[0]) for names in world.names(Kind.NODE_FACTS)]
    return max((f.record.generation for f in facts if f is not None and f.record is not None), default=0)


def away(world: ClusterState, node: str) -> str:
    """Why that node is left to people: not back since the restore. Empty: it is, or need not."""
    since = _since(world)
    if not since or _is_back(world, node, since):
        return ""
    return f"{node} has not returned since etcd was restored: fence it by hand if it is dead"


def _is_back(world: ClusterState, node: str, since: int) -> bool:
    facts, fence = world.facts(node), world.fence(node)
    if token_generation(world.fenced_through(node)) >= since:
        return True
    if facts is None or facts.record is None:
        return False
    if facts.record.generation >= since:
        return True
    receipt = fence.record.receipt if fence is not None and fence.record is not None else None
    given_up = receipt is not None and receipt.method == UNBLOCKED and not facts.record.storage_addresses
    return given_up and not world.unfenced(node)


def held(world: ClusterState) -> str:
    """Why nothing is started that does not run already; empty when nothing holds."""
    missing = waits_for(world)
    if not missing:
        return ""
    return (
        f"etcd was restored from a backup: no VM starts until {', '.join(missing)} "
        f"{'is' if len(missing) == 1 else 'are'} back or fenced"
    )


def uncovered(world: ClusterState, me: str, domains: Iterable[Domain]) -> list[Domain]:
    """My domains of older generations that no claim proves to be mine still.

    Safety: a claim leaves a node only by a release, after its domain was undefined, or by a takeover, after a
    fence that this node finds in the storage. So a domain whose epoch is that of the claim on me was mine to
    the end. Any other may have been replaced after the backup was made.
    """
    return [d for d in domains if d.managed and token_generation(d.session) < world.generation
            and not _proven(world, me, d)]  # fmt: skip


def _proven(world: ClusterState, me: str, domain: Domain) -> bool:
    claim = world.claim(VmId(domain.project, domain.name))
    if claim is None or claim.record is None:
        return False
    return (claim.record.node, claim.record.uuid, claim.record.epoch) == (me, domain.uuid, domain.epoch)


def raise_generation(
    keys: Keys,
    found: Seen[Generation] | None,
    generation: int,
    refusals: Iterable[tuple[Refusal, Seen[NodeFacts] | None]],
) -> Transaction:
    """Let the restored etcd be used: every number from now on is above every one that was ever given.

    Safety: the alive keys go in the same transaction, so every session that began before is over, also one that
    never noticed; ``register`` compares the generation, so the next one is of the new one. A node that refuses
    is written down, with what it says of itself: one that the backup does not know is waited for too, and its
    storage addresses of today can be fenced.
    """
    guards = [Guard(keys.generation(), "mod", mod_of(found))]
    alive = keys.prefix(Kind.NODE_ALIVE)
    effects: list[Put | Delete] = [
        Put(keys.generation(), encode(Generation(generation=generation))),
        Delete(alive, alive[:-1] + chr(ord("/") + 1)),
    ]
    for refusal, facts in refusals:
        old = facts.record if facts is not None and facts.record is not None else None
        if old is None:
            old = NodeFacts(name=refusal.name, uuid=refusal.uuid)
        addresses = tuple(dict.fromkeys((*old.storage_addresses, *refusal.storage_addresses)))
        if old.uuid != refusal.uuid:
            continue  # another machine of that name: its agent says so, and stays out
        if facts is None or addresses != old.storage_addresses:
            key = keys.node_facts(refusal.name)
            guards.append(Guard(key, "mod", mod_of(facts)))
            effects.append(Put(key, encode(msgspec.structs.replace(old, storage_addresses=addresses))))
    return Transaction(name="raise_generation", guards=tuple(guards), effects=tuple(effects))
