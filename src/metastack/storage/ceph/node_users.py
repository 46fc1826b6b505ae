"""cephx users of nodes: made, given exactly a node's rights, and deleted.

Owns: the monitor commands. Refuses: users that are called otherwise: those are people's.
Rule: ``auth get-or-create`` without rights first, then ``auth caps``: the first alone refuses a user that has
other rights, which a join that is repeated from another address would meet.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from metastack.ports import Broken, Denied, NotFound
from metastack.ports.accounts import NODE_USERS, NodeStorageUser
from metastack.settings import StorageSettings

from ..threads import StorageThreads
from .handle import Handle
from .rights import flat, node_rights

T = TypeVar("T")


class CephNodeUsers:
    """Connects when first used, as a user that may make others (docs/guide/install.md)."""

    def __init__(self, settings: StorageSettings) -> None:
        self._settings = settings
        self._threads = StorageThreads("cephx-users", 1)
        self._lock = threading.Lock()
        self._handle: Handle | None = None

    async def make(self, name: str, addresses: tuple[str, ...]) -> NodeStorageUser:
        entity, rights = _entity(name), flat(node_rights(self._settings.pool, addresses))

        def call(handle: Handle) -> NodeStorageUser:
            made = handle.json(f"making the user {entity}", prefix="auth get-or-create", entity=entity)
            handle.command(f"setting the rights of {entity}", prefix="auth caps", entity=entity, caps=rights)
            return NodeStorageUser(name, str(made[0]["key"]))

        return await self._run(f"making the user {entity}", call)

    async def remove(self, user: str) -> None:
        entity = _entity(user)

        def call(handle: Handle) -> None:
            try:
                # Ceph answers success for one that is not there, too.
                handle.command(f"deleting the user {entity}", prefix="auth rm", entity=entity)
            except NotFound:
                pass

        await self._run(f"deleting the user {entity}", call)

    async def close(self) -> None:
        self._threads.shutdown()
        self._part()

    async def _run(self, what: str, call: Callable[[Handle], T]) -> T:
        def connected() -> T:
            try:
                return call(self._connected())
            except Denied:
                # A connection keeps the rights that its user had when it began: the next one has today's.
                self._part()
                raise

        return await self._threads.run(what, connected, self._settings.timeout_s * 3)

    def _part(self) -> None:
        with self._lock:
            handle, self._handle = self._handle, None
        if handle is not None:
            handle.retire()

    def _connected(self) -> Handle:
        with self._lock:
            if self._handle is None:
                self._handle = Handle(self._settings)
            return self._handle


def _entity(name: str) -> str:
    if not name.startswith(NODE_USERS) or not name.replace("-", "").isalnum():
        raise Broken(f"client.{name} is no node's user of ours")
    return f"client.{name}"
