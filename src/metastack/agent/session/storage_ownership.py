"""Storage ownership: this node's storage must be the cluster's, and bear its mark, before it is ready.

Owns: that comparison. Refuses: writing either record: a person's command does, not the agent that is first.
Rule: one that differs is not ready and says which field differs; who has claims stays away, so that others take
them. Without ``config/storage`` (a cluster of before) a node is ready as ever, unless the storage bears a
cluster's mark: nothing tells that it is this one's.
"""

from __future__ import annotations

import structlog

from ...core.model import StorageIdentity
from ...core.state.fence_proof import differs
from ...core.state.keys import Keys
from ...ports import Fenced, Storage, StorageOwner
from ..cache.informer import Informer
from .identity import Misconfigured

log = structlog.get_logger()


class StorageOwnership:
    """Of one node."""

    def __init__(self, name: str, keys: Keys, storage: Storage, informer: Informer) -> None:
        self._name, self._keys, self._storage, self._informer = name, keys, storage, informer

    async def prepare_registration(self) -> None:
        """Before a registration: a node that cannot be ready stays away. Without claims it comes, to say why.

        Safety: told from here on which storage this is: what a receipt is compared with.
        """
        world = self._informer.world
        world.storage_here = await self._storage.identity()
        if world.unfenced(self._name):
            try:
                await self.check()
            except Fenced:
                pass  # it cannot read the mark: first it has to lift its block

    async def check(self, *, running: bool = False) -> None:
        """Raise Misconfigured when this node must not be ready.

        ``running``: it is. Then a folder without its mark is no other storage: it is marked after the record,
        and a mark may be lost. An agent that starts there might have its folder not mounted.
        """
        world, agreed = self._informer.world, None
        found = world.storage_identity()
        if found is not None:
            agreed = found.record
            if agreed is None:
                raise Misconfigured(f"the record of the cluster's storage cannot be read: {found.why}")
            here = world.storage_here = await self._storage.identity()
            if running and not here.fsid and here.kind == agreed.place.kind == "file":
                return
            if why := differs(agreed.place, here):
                raise Misconfigured(
                    f"this node's storage is not the cluster's: {why}; correct [storage] in the agent's "
                    "settings (metastack cluster storage show)"
                )
        owner = await self._storage.owner()
        if owner is not None and (why := strange(owner, agreed, self._keys.root)):
            raise Misconfigured(why)


def strange(owner: StorageOwner, agreed: StorageIdentity | None, root: str) -> str:
    """Why the storage that bears that mark is not this cluster's; empty: it is."""
    whose = f"this storage belongs to cluster {owner.cluster_id} (etcd root {owner.root})"
    if agreed is None:
        return (
            f"{whose}, but this etcd has no recorded storage: if it replaces the etcd of that cluster, "
            "and no other cluster uses the storage: metastack cluster storage adopt --yes --reason TEXT"
        )
    if owner.cluster_id != agreed.cluster_id:
        return (
            f"{whose}, but this is cluster {agreed.cluster_id}: choose another pool or folder, or another etcd"
        )
    if owner.root != root:
        return f"{whose}, but this agent's etcd root is {root}: correct root in the agent's settings"
    return ""
