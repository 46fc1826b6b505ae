"""Claims in flight: the capacity that they will take, and several claims in one transaction.

Owns: reservations of this node's claims in flight, and merging those that are due at one moment.
Refuses: deciding who claims (core/plan) and what proves a claim (core/protocol/claims).
Rule: a merged transaction carries the whole proof of each claim in it. If it fails, the claims that the
informer shows as lost are left out and the rest goes again. So a claim that lost its race takes none with it.

# Safety: guards are united, never dropped, and two claims that write one key (a group version, a disk's
record) never are under way together: the second is decided again, from a view that has the first. When the
outcome is unknown it is unknown for each, and each is settled by its own claim. Capacity, and which VMs may
share a node, is no matter of two writers, but of promises kept. Between the check and the informer's news of
the claim, what is in flight counts as taken. A claim whose outcome is unknown counts until it is settled:
recalled, so that it cannot land any more, or seen. So it does no harm that several transactions are under way.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from ...core.model import NodeFacts, VmId, VmSpec
from ...core.protocol import claims
from ...core.state.cluster_state import mod_of, seen
from ...core.state.keys import Kind
from ...core.transaction import MAX_OPERATIONS, Transaction, merged
from ...ports import Refused, Unavailable, UnknownOutcome
from ..context import AgentContext

CLAIMS_PER_TRANSACTION: Final = 16
"""Claims in one transaction."""
TRANSACTIONS_AT_ONCE: Final = 4
"""Transactions under way. A second one goes only when it is full: fewer and fuller ones cost everybody less."""


class _ClaimRequest:
    """One claim that waits to be sent."""

    def __init__(self, vm: VmId, change: Transaction, group_versions: dict[tuple[str, ...], int]) -> None:
        self.vm, self.change, self.group_versions = vm, change, group_versions
        """``group_versions``: names and compared revisions of those that it bears."""
        self.won: bool | None = None
        self.error: Exception | None = None
        self.news = asyncio.Event()
        """Look again: it is over, or another transaction may be sent."""

    @property
    def over(self) -> bool:
        return self.won is not None or self.error is not None


class ClaimBatch:
    """Sends this node's claims and takeovers."""

    def __init__(self, node: AgentContext, again: Callable[[VmId], None]) -> None:
        """``again`` has a VM looked at."""
        self._node, self._again = node, again
        self._coming: dict[VmId, VmSpec] = {}
        """What is being claimed right now."""
        self._held_up: dict[VmId, None] = {}
        """What was refused only because of that."""
        self._sent_under: dict[VmId, int] = {}
        """Revision of this node's own record that a claim under way compares with."""
        self._line: dict[_ClaimRequest, None] = {}
        self._sent: list[list[_ClaimRequest]] = []
        """Transactions under way."""

    def reserve(self, vm: VmId, spec: VmSpec) -> None:
        """Set the VM's capacity aside; raises Refused when this node has none, by its newest view, and
        Unavailable when that is older than what this node did itself.

        Hard limits are proven here, by the claimer itself: nothing is awaited between the look and this.
        """
        node = self._node
        if node.world.revision < node.wrote or node.missed_changes:
            # A claim that is committed, and no reservation any more, is not in this view (yet).
            raise Unavailable(f"{vm}: this node's view is behind its own last change")
        if node.world.missed_key:
            # Somebody else's VM is not counted, and the group versions are no older for that.
            raise Unavailable(f"{vm}: this node's view lost something before {node.world.missed_key}")
        if vm not in self._coming:
            if why := node.turns.short_of(vm, self._coming):
                if not node.engine.fits(vm, node.name):
                    self._held_up[vm] = None
                raise Refused(f"{vm}: {'; '.join(why)}")
            self._coming[vm] = spec

    async def recall(self, vm: VmId) -> None:
        """Make sure that no claim of that VM that was sent can be committed any more.

        Raises Unavailable. One recall ends all that were sent before it, also those that an answer would come
        for: they are decided again.
        """
        if vm not in self._sent_under:
            return
        node = self._node
        entry = await node.store.get(node.keys.node_facts(node.name))
        if entry is None or entry.mod_revision != self._sent_under[vm]:
            return
        if not await node.commit(claims.recall(node.keys, node.session.me, seen(NodeFacts, entry))):
            raise Unavailable(f"{vm}: a claim of it is still on its way")

    def free(self, vm: VmId) -> None:
        """Its claim is settled: this node's, and counted so, or not. VMs that it held up are looked at."""
        self._sent_under.pop(vm, None)
        if self._coming.pop(vm, None) is not None and self._held_up:
            held_up, self._held_up = self._held_up, {}
            for other in held_up:
                self._again(other)

    async def commit(self, vm: VmId, change: Transaction) -> bool:
        """Commit it, perhaps together with others; false when a guard of its own failed."""
        asked = _ClaimRequest(vm, change, self._tokens(change))
        own = self._node.keys.node_facts(self._node.name)
        self._sent_under[vm] = next((g.value for g in change.guards if g.key == own), 0)
        self._line[asked] = None
        try:
            await asyncio.sleep(0)  # who is due at this very moment comes along
            while not asked.over:
                batch = self._batch() if asked in self._line and self._may_send() else []
                if batch:
                    await self._send(batch)
                elif not asked.over:
                    asked.news.clear()
                    await asked.news.wait()
        finally:
            self._line.pop(asked, None)
            self._next()
        if asked.error is not None:
            raise asked.error
        return bool(asked.won)

    def _may_send(self) -> bool:
        return not self._sent or (
            len(self._sent) < TRANSACTIONS_AT_ONCE and len(self._line) >= CLAIMS_PER_TRANSACTION
        )

    def _next(self) -> None:
        """One more transaction may be sent: the first in line sends it."""
        if self._may_send() and (first := next(iter(self._line), None)) is not None:
            first.news.set()

    def _batch(self) -> list[_ClaimRequest]:
        """The first in line and the claims that can go with it."""
        batch: list[_ClaimRequest] = []
        guards: dict[tuple[str, str], int] = {}
        written = {effect.key for sent in self._sent for asked in sent for effect in asked.change.effects}
        effects = 0
        for asked in list(self._line):
            if self._lost(asked):
                # While it waited for its turn; sending it would only say so once more.
                self._over(asked, False)
                continue
            change = asked.change
            fresh: dict[tuple[str, str], int] = {(g.key, g.field): g.value for g in change.guards}
            keys = [effect.key for effect in change.effects]
            if not written.isdisjoint(keys):
                continue
            fits = (
                len(guards | fresh) <= MAX_OPERATIONS
                and effects + len(keys) <= MAX_OPERATIONS
                and all(guards.get(where, value) == value for where, value in fresh.items())
            )
            if batch and not (fits and (change.name, change.lease) == _kind(batch[0])):
                continue
            batch.append(asked)
            guards |= fresh
            written.update(keys)
            effects += len(keys)
            if len(batch) == CLAIMS_PER_TRANSACTION:
                break
        for asked in batch:
            del self._line[asked]
        return batch

    async def _send(self, batch: list[_ClaimRequest]) -> None:
        """Send it until each in it is over."""
        self._sent.append(batch)
        try:
            rest = batch
            while len(rest) > 1:
                if await self._node.commit(merged([asked.change for asked in rest])):
                    for asked in rest:
                        self._over(asked, True)
                    return
                for asked in rest:
                    if self._lost(asked):
                        self._over(asked, False)
                left = [asked for asked in rest if not asked.over]
                if len(left) == len(rest):
                    break  # nothing tells whose guard it was
                rest = left
            for asked in rest:
                await self._alone(asked)
        except (Unavailable, Refused) as error:
            for asked in batch:
                if not asked.over:
                    self._over(asked, error=error)
        finally:
            for asked in batch:
                if not asked.over:  # its sender was cancelled
                    self._over(
                        asked, error=UnknownOutcome(f"{asked.change.name} {asked.vm}: the answer was lost")
                    )
            self._sent.remove(batch)
            self._next()

    async def _alone(self, asked: _ClaimRequest) -> None:
        try:
            self._over(asked, await self._node.commit(asked.change))
        except (Unavailable, Refused) as error:
            self._over(asked, error=error)

    def _over(self, asked: _ClaimRequest, won: bool | None = None, error: Exception | None = None) -> None:
        asked.won, asked.error = won, error
        asked.news.set()
        self._line.pop(asked, None)

    def _lost(self, asked: _ClaimRequest) -> bool:
        """The informer shows that it cannot be won any more: somebody else has claimed it, or entered a domain
        that one of its groups looks at, or it was recalled. A revision once compared with never comes back."""
        node, world = self._node, self._node.world
        now = {
            node.keys.claim(asked.vm): mod_of(world.claim(asked.vm)),
            node.keys.node_facts(node.name): mod_of(world.facts(node.name)),
        }
        return any(now.get(guard.key, guard.value) != guard.value for guard in asked.change.guards) or any(
            value != mod_of(world.group(*names)) for names, value in asked.group_versions.items()
        )

    def _tokens(self, change: Transaction) -> dict[tuple[str, ...], int]:
        keys = self._node.keys
        parsed = ((keys.parse(guard.key), guard.value) for guard in change.guards)
        return {key.names: value for key, value in parsed if key is not None and key.kind is Kind.GROUP}


def _kind(asked: _ClaimRequest) -> tuple[str, int]:
    return asked.change.name, asked.change.lease
