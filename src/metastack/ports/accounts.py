"""Accounts of others that ``pki serve`` makes for nodes: users of etcd, and users of the storage.

Rule: every call may run twice, and in any order with another's: whoever died half-way just asks again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Final, Protocol

from msgspec import Struct

from ..core.etcd_roles import EtcdRole

NODE_USERS: Final = "metastack-node-"
"""How the name of a node's storage user begins: nobody else's does."""


class EtcdAccounts(Protocol):
    """Users and roles of etcd, for the holder of its role ``root``. Raises the families of the ports."""

    async def apply(
        self, roles: Iterable[EtcdRole] = (), users: Mapping[str, Collection[str]] | None = None
    ) -> list[str]:
        """Make these roles and these users exactly so; what changed, a line each."""
        ...

    async def remove(self, users: Iterable[str] = (), roles: Iterable[str] = ()) -> list[str]:
        """Delete users and roles; one that is not there is no error."""
        ...


class NodeStorageUser(Struct, frozen=True):
    """A node's user of the storage, with its key; ``user`` is empty if the storage has no users."""

    user: str = ""
    key: str = ""

    def __repr__(self) -> str:
        """Without the key: this must not be in a log."""
        return f"NodeStorageUser(user={self.user!r})"


class NodeStorageUsers(Protocol):
    """Users of the storage for nodes. Raises the families of the ports."""

    async def make(self, name: str, addresses: tuple[str, ...]) -> NodeStorageUser:
        """The user of that name, with exactly the rights of a node at these addresses."""
        ...

    async def remove(self, user: str) -> None:
        """Delete a user that :meth:`make` made; one that is not there is no error."""
        ...

    async def close(self) -> None: ...
