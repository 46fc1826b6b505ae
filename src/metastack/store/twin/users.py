"""The twin of :class:`metastack.store.etcd.users.EtcdUsers`: users and roles in memory."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from metastack.core.etcd_roles import EtcdRole


class MemoryAccounts:
    """Users with their roles, and roles with their rights."""

    def __init__(self) -> None:
        self.users: dict[str, frozenset[str]] = {}
        self.roles: dict[str, EtcdRole] = {}
        self.trouble: Exception | None = None
        """Raised by every call; None: it works."""

    async def apply(
        self, roles: Iterable[EtcdRole] = (), users: Mapping[str, Collection[str]] | None = None
    ) -> list[str]:
        if self.trouble is not None:
            raise self.trouble
        self.roles |= {role.name: role for role in roles}
        self.users |= {name: frozenset(had) for name, had in (users or {}).items()}
        return []

    async def remove(self, users: Iterable[str] = (), roles: Iterable[str] = ()) -> list[str]:
        if self.trouble is not None:
            raise self.trouble
        for name in users:
            self.users.pop(name, None)
        for name in roles:
            self.roles.pop(name, None)
        return []
