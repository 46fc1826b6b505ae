"""The node's names in the storage: addresses, its agent's clients, its guests' user.

Owns: what is declared of them in ``nodes/<node>``, and asking whether any of them is shut out.
Refuses: lifting anything. Rule: a name is declared before it is used: a fencer blocks what is declared.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from ...core.model import Fencing, NodeFacts
from ...core.protocol import claims
from ...core.protocol.guards import OwnSession
from ...core.state.keys import Keys
from ...core.transaction import Committed
from ...ports import Hypervisor, Refused, Storage, Store
from ..cache.informer import Informer
from ..clock import Clock
from .identity import Misconfigured, refuse_shared
from .state_files import StateFiles

log = structlog.get_logger()

CLIENTS_KEPT: Final = 8


class StorageClients:
    """The names of one node; ``addresses`` are those of its settings."""

    def __init__(
        self,
        name: str,
        keys: Keys,
        store: Store,
        storage: Storage,
        informer: Informer,
        state_files: StateFiles,
        clock: Clock,
        addresses: tuple[str, ...],
        boot_id: str = "",
    ) -> None:
        self._name, self._keys, self._store, self._storage = name, keys, store, storage
        self._informer, self._state_files, self._clock = informer, state_files, clock
        self._addresses, self._boot_id = addresses, boot_id
        self.seen = ""
        """Where the storage saw a new client of this machine last; empty: it does not tell."""
        self._declared: frozenset[str] = frozenset()
        """Addresses that this session knows to be declared: nobody takes one away while it lives."""
        self._told = ""
        """The client that was declared last."""
        self._look_lock = asyncio.Lock()

    @property
    def known(self) -> NodeFacts | None:
        """What is declared, as far as it was heard."""
        found = self._informer.world.facts(self._name)
        return found.record if found is not None else None

    async def shut_out(self) -> tuple[str, ...]:
        """Which of this node's names the storage refuses right now."""
        if not self._addresses:
            return ()
        known = self.known
        clients = known.storage_clients if known is not None else ()
        guests = (f"client.{self._storage.guest_user}",) if self._storage.guest_user else ()
        # Another's, that a NAT puts in front of this node, is not this node's.
        mine = (self.seen,) if known is not None and self.seen in known.storage_addresses else ()
        return await self._storage.blocked(tuple(dict.fromkeys((*self._addresses, *mine, *clients, *guests))))

    async def seen_at(self) -> frozenset[str]:
        """Addresses of this host's clients: of one that begins now, and of the agent's own."""
        if not self._addresses:
            return frozenset()
        return frozenset({self.seen, _host(await self._storage.own_client())} - {""})

    async def look(self) -> None:
        """Find out where a client that begins now is seen."""
        self.seen = await self._storage.own_address() if self._addresses else ""

    async def prepare_registration(self, same_boot: bool = True) -> None:
        """Before a registration: look, when this node was seen elsewhere than its settings say.

        A node that cannot be ready stays away, so that others take its VMs. Without any it comes, to say why.
        Safety: not one that is not ``certain`` to be the machine of the last session. Its settings may be a
        copy; the name, and any block, are left for the machine whose address it is.
        """
        declared = self.known.storage_addresses if self.known is not None else ()
        if (same_boot or self.known is None) and not {self.seen, *declared} - {"", *self._addresses}:
            return
        await self.look()
        if not same_boot or self._informer.world.unfenced(self._name):
            await self.refuse_strange()

    async def refuse_strange(self) -> None:
        """Raise Misconfigured when a new client would be under an address that is not this node's."""
        if not self.seen or self.seen in self._addresses:
            return
        known = self.known
        if known is None or self.seen not in known.storage_addresses:
            raise Misconfigured(
                f"the storage sees this node as {self.seen}, which is not among storage_addresses "
                f"({', '.join(self._addresses)}): a fence would not block it; correct the agent's configuration"
            )
        await self.refuse_shared(self.seen)

    async def declare(self, me: OwnSession, *, forget_old: bool = False) -> None:
        """Write down every name of this node.

        The last few clients are kept: a fencer that comes late may know only an older one, and what it blocks
        then must be seen here. ``forget_old``: none of them can be alive, and none matters any more.
        """
        known = self.known
        mine = await self._storage.own_client() if self._addresses else ""
        before = known.storage_clients if known is not None and not forget_old else ()
        old = known.storage_addresses if known is not None else ()
        clients = (*(c for c in before if c != mine), *((mine,) if mine else ()))[-CLIENTS_KEPT:]
        await self._write(me, (*old, *self._addresses), clients)
        self._told = mine

    async def client_is_declared(self) -> bool:
        """Whether what was declared last is the client that this agent is now."""
        return not self._addresses or self._told == await self._storage.own_client()

    async def settle(self, me: OwnSession, hypervisor: Hypervisor) -> None:
        """Last before *ready*: the storage must see this node where it said. What no client can be under goes.

        Safety: here is no call of an older session, none left in libvirtd, and no fence of this node is open
        nor can one begin (it is alive, guarded). With no domain of ours, every client of this node that there
        is or will be is the agent's own, or one that begins under what :meth:`prove` admits. A blocked one
        stays: while it is declared, ``node unfence`` lifts it too.
        """
        if not self._addresses:
            return
        await self.look()
        await self.refuse_strange()
        known = self.known
        declared = known.storage_addresses if known is not None else ()
        old = set(declared) - {*self._addresses, self.seen, _host(await self._storage.own_client())}
        if not old or any(domain.managed or domain.damaged for domain in await hypervisor.domains()):
            return
        old -= set(await self._storage.blocked(tuple(sorted(old))))
        if old:
            assert known is not None
            await self._write(me, tuple(a for a in declared if a not in old), known.storage_clients)
            log.info("storage_addresses_dropped", node=self._name, addresses=sorted(old))

    async def prove(self, me: OwnSession) -> None:
        """Before a boot, and now and then: raise unless a client that begins now is under a declared address.

        One that is new is declared first. Safety: guarded by ``alive = S``, so no fence of this node has begun:
        every later one reads it. What is left is an address that changes between this look and the guest's own
        first connection, while the agent hangs there until it is fenced.
        """
        if not self._addresses:
            return
        async with self._look_lock:
            await self.look()
            if not self.seen or self.seen in self._declared:
                return
            await self.refuse_shared(self.seen)
            known = self.known
            if known is None:
                raise Refused("this node's own record is gone")
            log.warning(
                "storage_address_declared", node=self._name, address=self.seen, configured=list(self._addresses)
            )
            await self._write(me, (*known.storage_addresses, self.seen), known.storage_clients)
            await self.refuse_shared(self.seen)

    async def refuse_shared(self, *addresses: str) -> None:
        """Raise Misconfigured when another node has one of them too, and fences are of whole addresses now."""
        if self._informer.world.config.fencing is Fencing.ADDRESS:
            await refuse_shared(self._name, addresses, self._keys, self._store)

    async def _write(self, me: OwnSession, addresses: tuple[str, ...], clients: tuple[str, ...]) -> None:
        found, known = self._informer.world.facts(self._name), self.known
        wanted = NodeFacts(
            name=self._name,
            uuid=self._state_files.node_uuid(""),
            storage_addresses=tuple(dict.fromkeys(addresses)),
            storage_clients=clients,
            storage_guest_user=self._storage.guest_user,
            joined=known.joined if known is not None else self._clock.stamp(),
            generation=me.generation,
            boot_id=self._boot_id,
        )
        self._declared = frozenset()
        if wanted != known:
            outcome = await self._store.commit(claims.declare(self._keys, me, wanted, found))
            if not isinstance(outcome, Committed):
                raise Refused("declaring the storage addresses lost a race")
            await self._informer.reached(outcome.revision)
        self._declared = frozenset(wanted.storage_addresses)
        if not self._state_files.joined():
            self._state_files.begin_joined()


def _host(client: str) -> str:
    """The address in ``ADDRESS:PORT/NONCE``."""
    return client.rpartition(":")[0].strip("[]")
