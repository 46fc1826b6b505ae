"""The lease keeper: renews the previous session's lease while this agent waits for its storage.

Owns: renewing the lease that the last agent of this very boot left, and saying so in its record.
Refuses: doing anything in that session.
Rule: an upgrade of the agent in an outage of the monitors fences nobody; a node that alone has no storage gives
its place up after ``storage_lost_s``.

# Safety: only one agent runs on a machine (libvirt's lock), so an alive key of this boot is of an agent that
has ended. Kept alive, it claims, boots and resumes nothing; its guests run on, as they did before the upgrade.
Its session ends as ever when this agent registers: its own key is retired before.
"""

from __future__ import annotations

import asyncio
from typing import Final

import msgspec
import structlog

from ...core.model import ClusterConfig, NodeAlive, token
from ...core.protocol import claims
from ...core.protocol.guards import OwnSession
from ...core.state.cluster_state import Seen, seen
from ...core.state.codec import decode
from ...core.state.keys import Keys, Kind
from ...core.transaction import Committed, Lease
from ...ports import Refused, Store, Unavailable

log = structlog.get_logger()

EVERY_S: Final = 1.0
"""A lease of the shortest allowed TTL, 2 s, is renewed in time."""
QUICK_S: Final = 0.5
"""A storage that answers within this needs nothing kept."""
TRY_S: Final = 4
"""So long one renewal may take, seconds."""
WAITS: Final = "its agent was restarted and waits for the storage; its guests run on"


class LeaseKeeper:
    """Keeps one place; ``boot_id`` "": this machine cannot tell its own keys, and keeps none."""

    def __init__(self, name: str, keys: Keys, store: Store, boot_id: str) -> None:
        self._name, self._keys, self._store, self._boot_id = name, keys, store, boot_id
        self._alone_from_s: float | None = None
        """Since when others have a storage that answers."""

    async def run(self) -> None:
        """Keep it until cancelled, or until it has to be given up."""
        await asyncio.sleep(QUICK_S)
        while self._boot_id:
            try:
                if not await self._keep():
                    return
            except (Unavailable, Refused) as error:
                log.info("lease_keeper_failed", node=self._name, error=str(error))
            await asyncio.sleep(EVERY_S)

    async def _keep(self) -> bool:
        entry = await self._store.get(self._keys.node_alive(self._name))
        if entry is None or not entry.lease:
            return False
        found: Seen[NodeAlive] = seen(NodeAlive, entry)
        if found.record is None or found.record.boot_id != self._boot_id:
            return False
        if await self._alone():
            log.warning("lease_given_up", node=self._name, why="the storage answers others, and not this node")
            await self._store.revoke(Lease(entry.lease, TRY_S, 0.0))
            return False
        if found.record.storage_ok:
            told = msgspec.structs.replace(found.record, storage_ok=False, message=WAITS)
            session = token(found.record.generation, found.create)
            me = OwnSession(
                node=self._name, session=session, lease=entry.lease, generation=found.record.generation
            )
            if not isinstance(await self._store.commit(claims.announce(self._keys, me, told)), Committed):
                return False
            log.warning("lease_kept", node=self._name, session=session, why=WAITS)
        await self._store.renew(Lease(entry.lease, TRY_S, 0.0))
        return True

    async def _alone(self) -> bool:
        """The storage has answered others for longer than a silent node is waited for."""
        listed = await self._store.list(self._keys.prefix(Kind.NODE_ALIVE))
        others = [seen(NodeAlive, entry).record for entry in listed.entries]
        well = any(
            one is not None
            and one.name != self._name
            and one.ready
            and one.storage_ok
            and not one.storage_silent_since
            for one in others
        )
        now_s = asyncio.get_running_loop().time()
        if not well:
            self._alone_from_s = None
            return False
        self._alone_from_s = now_s if self._alone_from_s is None else self._alone_from_s
        lost_s = await self._storage_lost_s()
        return bool(lost_s) and now_s - self._alone_from_s >= lost_s

    async def _storage_lost_s(self) -> int:
        entry = await self._store.get(self._keys.cluster())
        try:
            config = decode(ClusterConfig, entry.value, entry.key) if entry is not None else ClusterConfig()
        except ValueError:
            config = ClusterConfig()
        return config.storage_lost_s
