"""Which adapter makes nodes' storage users; storage without users makes none."""

from __future__ import annotations

from metastack.ports import Refused
from metastack.ports.accounts import NodeStorageUser, NodeStorageUsers
from metastack.settings import StorageSettings


class NoUsers:
    """Of a storage that knows no users."""

    async def make(self, name: str, addresses: tuple[str, ...]) -> NodeStorageUser:
        return NodeStorageUser()

    async def remove(self, user: str) -> None:
        return None

    async def close(self) -> None:
        return None


class MemoryUsers:
    """The twin: users with keys, each right as given last."""

    def __init__(self) -> None:
        self.users: dict[str, tuple[str, tuple[str, ...]]] = {}
        self.made = 0
        self.trouble: Exception | None = None
        """Raised by every call; None: it works."""

    async def make(self, name: str, addresses: tuple[str, ...]) -> NodeStorageUser:
        if self.trouble is not None:
            raise self.trouble
        if name not in self.users:
            self.made += 1
        key = self.users[name][0] if name in self.users else f"key-{self.made}"
        self.users[name] = (key, addresses)
        return NodeStorageUser(name, key)

    async def remove(self, user: str) -> None:
        if self.trouble is not None:
            raise self.trouble
        self.users.pop(user, None)

    async def close(self) -> None:
        return None


def node_users(settings: StorageSettings) -> NodeStorageUsers:
    """The adapter, which connects when it is first used; raises Refused."""
    if settings.kind != "ceph":
        return NoUsers()
    try:
        from .ceph.node_users import CephNodeUsers
    except ImportError as error:
        raise Refused(f"storage of kind ceph needs Debian's python3-rados in this Python: {error}") from None
    return CephNodeUsers(settings)
