"""An etcd in memory that lets each command read and write only what a role of its caller allows."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from typing import Final

from metastack.core.etcd_roles import OPERATOR_ROLES, Rights, cluster_roles
from metastack.core.state.keys import Keys, Kind
from metastack.core.transaction import Batch, Entry, Outcome, Snapshot, Transaction
from metastack.store.twin.cluster import MemoryCluster
from metastack.store.twin.store import MemoryStore

ADMIN: Final = frozenset(
    {
        *("announce_removal", "node.remove", "node.fence", "node.unfence", "node.unfenced"),
        *("config.set", "cluster.restore", "cluster.storage_init", "cluster.storage_adopt"),
        *("cluster.upgrade-finish", "cluster.backup", "lifted"),
        *("node.token", "node.token-revoke", "withdraw_token"),
        *("secret.put", "secret.delete", "secret.rotate"),
    }
)
"""Transactions of commands that only an admin may give."""
HANDS: Final = frozenset(
    {"test", "register", "intent", "take_over_intent", "done", "restored", "trash", "volume.purged"}
)
"""Transactions that a test commits in the name of an agent, or as nobody."""


class CommandRights(MemoryStore):
    """The store of commands."""

    def __init__(self, cluster: MemoryCluster, keys: Keys) -> None:
        super().__init__(cluster)
        roles = {role.name: role for role in cluster_roles(keys)}
        self._secrets = keys.prefix(Kind.SECRET)
        self._rights = {
            name: Rights(*(roles[role] for role in OPERATOR_ROLES[name])) for name in ("operator", "admin")
        }

    def _reader(self, key: str) -> Rights:
        """Secrets are an admin's to read."""
        return self._rights["admin" if key.startswith(self._secrets) else "operator"]

    async def get(self, key: str) -> Entry | None:
        assert self._reader(key).reads(key), f"an operator may not read {key}"
        return await super().get(key)

    async def list(self, *prefixes: str) -> Snapshot:
        for prefix in prefixes:
            assert self._reader(prefix).lists(prefix), f"an operator may not list {prefix}"
        return await super().list(*prefixes)

    def watch(
        self, prefix: str, after_revision: int, without: tuple[str, ...] = (), until: str = ""
    ) -> AsyncGenerator[Batch, None]:
        assert self._rights["operator"].lists(prefix, until), f"an operator may not watch {prefix}"
        return super().watch(prefix, after_revision, without, until)

    async def commit(self, change: Transaction) -> Outcome:
        if change.name not in HANDS:
            who = "admin" if change.name in ADMIN else "operator"
            outside = self._rights[who].outside(change)
            assert not outside, f"{change.name}: an {who} may not {', '.join(outside)}"
        return await super().commit(change)
