"""The fence check: whether the blocks that a takeover relied on still hold, before a boot or a release.

Owns: which nodes must be shut out for a claim, and asking for another fence of one that is not.
Refuses: blocking anything; who does that is the fencer. Rule: records say that a block was made, only the
storage says that it is there.

# Safety: a takeover is proven by a receipt, and a receipt is a record: a person may have lifted the block since
(``ceph osd blocklist rm``, ``blocklist clear``), and a guest that was only frozen or cut off would write again.
So every address and client of the receipt must be refused now; or the node has registered above the fence
since, and then it had killed what the fence reached before it lifted its own block. Nodes that lost the VM
earlier count too: who took it over from one of them may have died before it found that out. A claim that was
taken over and not proven yet is not given back either: the next node that claims the VM looks at no fence.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from ...core.model import Claim, Fence, VmId, token
from ...core.protocol import fences
from ...core.state.cluster_state import ClusterState, Seen, seen
from ...core.state.fence_proof import UNBLOCKED
from ...ports import Storage
from ..context import AgentContext
from ..reconcile.vm_memory import VmMemory

log = structlog.get_logger()

CHECK_AGAIN_S: Final = 1.0
"""Between two looks whether the fence stands by now."""


def earlier(old: Claim) -> tuple[str, ...]:
    """Of a claim that is taken over: who lost the VM before its node did."""
    return tuple(dict.fromkeys((*old.taken_before, *((old.taken_from,) if old.taken_from else ()))))


def victims(claim: Claim) -> tuple[str, ...]:
    """Every node that must not write any more for the claim to be worth anything."""
    return tuple(name for name in dict.fromkeys(earlier(claim)) if name != claim.node)


def registered_since(world: ClusterState, node: str, through: int) -> bool:
    """The node had a session above that fence.

    Safety: a session declares its addresses under ``alive = S``, so a declaration of this generation that is
    newer than ``through`` was made in a later session. What ``node unfence`` writes is of no generation.
    """
    if world.session(node) > through:
        return True
    facts = world.facts(node)
    if facts is None or facts.record is None or not facts.record.storage_addresses:
        return False
    if not facts.record.uuid:
        return False  # an unblock by hand wrote them: no machine did
    generation = facts.record.generation
    return generation == world.generation and token(generation, facts.mod) > through


async def lifted(world: ClusterState, storage: Storage, names: tuple[str, ...]) -> dict[str, str]:
    """Of those nodes each that is not shut out any more, and what of it the storage lets in."""
    wanted: dict[str, tuple[str, ...]] = {}
    found: dict[str, str] = {}
    for name in names:
        fence = world.fence(name)
        record = fence.record if fence is not None else None
        if fence is not None and record is None:
            found[name] = f"its fence record cannot be read: {fence.why}"
        elif world.facts(name) is None:
            # Safety: ``node remove`` forgets the facts of a node that is lost, fenced and has no claim; its
            # fence stays. The person who did that vouched for it. Nor could it be fenced again: its addresses
            # are not known any more, and another node may have them.
            continue
        elif record is None or (record.receipt is None and not record.through):
            # Safety: somebody deleted it, since a takeover compares it. Only a session tells more: it had none
            # while it was fenced, so one that it has now is later.
            if not world.session(name):
                found[name] = "the record of its fence is gone"
        elif registered_since(world, name, record.through):
            continue
        elif flaw := world.fence_flaw(name):
            found[name] = flaw
        elif record.receipt is None:
            found[name] = "the record of its fence has no receipt"
        elif record.receipt.method != UNBLOCKED:
            # Not its guests' user: only its own node may read that one's rights (docs/internals/safety.md).
            wanted[name] = (*record.receipt.addresses, *record.receipt.clients)
    if not storage.remote_fence:
        return found  # each disk's own lock is the proof, and QEMU asks for it
    asked = tuple(dict.fromkeys(what for names_ in wanted.values() for what in names_))
    refused = set(await storage.blocked(asked)) if asked else set()
    for name, whats in wanted.items():
        if missing := [what for what in whats if what not in refused]:
            found[name] = f"{', '.join(missing)} {'is' if len(missing) == 1 else 'are'} no longer blocked"
    return found


class FenceCheck:
    """Asks, and has a fence that does not stand made again."""

    def __init__(self, node: AgentContext) -> None:
        self._node = node

    async def proven(self, vm: VmId, claim: Claim, memory: VmMemory, *, again: bool) -> bool:
        """Nothing that a fence of this claim reached can write; else ``memory`` says why not.

        ``again``: also when that was found before in this epoch. Raises Unavailable.
        """
        names = victims(claim)
        if not names or (memory.proven == claim.epoch and not again):
            return True
        node = self._node
        found = await lifted(node.world, node.storage, names)
        if found:
            # Its return may be news that has not come yet, and its block be lifted by itself.
            await node.informer.look()
            found = await lifted(node.world, node.storage, tuple(found))
        if not found:
            memory.proven = claim.epoch
            return True
        memory.proven = 0
        told = "; ".join(f"{name}: {why}" for name, why in found.items())
        message = f"waits: a fence that it was taken over by does not hold ({told}); it is made again"
        if memory.message != message:
            log.error("fence_not_in_force", vm=str(vm), node=node.name, why=told)
        memory.message, memory.retry_at_s = message, asyncio.get_running_loop().time() + CHECK_AGAIN_S
        for name, why in found.items():
            await self._again(name, why)
        return False

    async def _again(self, victim: str, why: str) -> None:
        node = self._node
        entry = await node.store.get(node.keys.fence(victim))
        found: Seen[Fence] | None = seen(Fence, entry) if entry is not None else None
        record = found.record if found is not None else None
        if found is not None and (record is None or fences.under_way(record, node.world.generation)):
            return
        if node.world.alive(victim) is not None:
            return  # registering above the fence, or gone by the next look
        reason = f"its fence does not hold: {why}"
        extra = node.event("node.fencing", victim, reason)
        change = fences.fence_again(
            node.keys, node.session.me, victim, found, node.clock.stamp(), reason, extra
        )
        if await node.commit(change):
            log.warning("fence_repeated", node=node.name, victim=victim, why=why)
