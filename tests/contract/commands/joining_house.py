"""A management host whose `pki serve` can look, die and be followed, and new nodes that ask it."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from commands_rig import Rig, request
from msgspec.structs import replace

from metastack.commands.joining.answering import Desk, answer, sign
from metastack.commands.joining.asking import Joined, ask
from metastack.commands.joining.serving import PkiServer
from metastack.commands.joining.tokens import create_token, list_tokens, revoke_token
from metastack.commands.node.remove import remove_node
from metastack.commands.request import Cluster
from metastack.core.model import Credential, JoinToken, NodeSpec
from metastack.pki.folder import CaFolder
from metastack.pki.refusal import Refusal
from metastack.pki.tokens import Token, parse_token
from metastack.settings import StorageSettings
from metastack.storage.node_users import MemoryUsers
from metastack.store.twin.store import MemoryStore
from metastack.store.twin.users import MemoryAccounts

ENDPOINTS = ("https://10.0.0.1:2379",)
CEPH = StorageSettings(kind="ceph", pool="vms", monitors=("10.0.0.1:6789",), user="pki")
PLACE: dict[str, Any] = {"hosts": ("10.0.0.9",), "storage_addresses": ("10.1.0.9",)}


def now() -> datetime:
    return datetime.now(UTC)


class House:
    """A management host, and new nodes that ask."""

    def __init__(self, rig: Rig, ca: CaFolder) -> None:
        self.rig, self.ca = rig, ca
        self.accounts, self.users = MemoryAccounts(), MemoryUsers()
        store = rig.store
        if isinstance(store, MemoryStore):  # without the rights of a person: nobody else is `root`
            store = MemoryStore(store._cluster)
        self.cluster = Cluster(store, rig.keys)
        self.keys = rig.keys
        self.bearer: Token
        self.key: Any = None
        self.desk = Desk(
            cluster=self.cluster,
            ca=ca,
            accounts=self.accounts,
            storage_users=self.users,
            storage=CEPH,
            clock=now,
            by="pki@m1",
            reserved=frozenset({"10.0.0.1"}),
        )

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[PkiServer]:
        server, stop = PkiServer(self.desk), asyncio.Event()
        task = asyncio.create_task(server.run(stop))
        try:
            async with asyncio.timeout(10):
                await server.following.wait()
            yield server
        finally:
            stop.set()
            await task

    async def token(self, node: str = "n1", ttl: str = "1h", **places: tuple[str, ...]) -> Token:
        """A token that one look of a server signed."""
        async with asyncio.TaskGroup() as group:
            made = group.create_task(
                create_token(self.rig.cluster, request("new"), node, ENDPOINTS, ttl=ttl, **places)  # type: ignore[arg-type]
            )
            while not made.done():
                for view in await list_tokens(self.cluster):
                    await sign(self.desk, view.id)
                await asyncio.sleep(0)
        return parse_token(made.result().token)

    async def join(self, token: Token, key: Any, *, off_s: float = 0.0, **places: tuple[str, ...]) -> Joined:
        """Ask, and let a server look whenever something was asked."""
        clock = lambda: now() + timedelta(seconds=off_s)  # noqa: E731
        async with asyncio.TaskGroup() as group:
            asking = group.create_task(
                quietly(ask(self.cluster.store, self.keys, token, key, clock, answer_s=10, **(PLACE | places)))
            )
            while not asking.done():
                await answer(self.desk, token.id)
                await asyncio.sleep(0)
        found = asking.result()
        if isinstance(found, Refusal):
            raise found
        return found

    async def refused(self, token: Token, key: Any, **more: Any) -> Refusal:
        with pytest.raises(Refusal) as raised:
            await self.join(token, key, **more)
        return raised.value

    async def then_revoked(self) -> None:
        await revoke_token(self.rig.cluster, request("lost"), self.bearer.id)

    async def then_alive(self) -> None:
        await self.rig.node("n1")

    async def then_used(self) -> None:
        """Another `pki serve` admits another key."""
        record = await self.record(self.bearer)
        await self.rig.put(self.keys.token(record.id), replace(record, spent_on="another"))

    async def then_removed(self) -> None:
        await remove_node(self.rig.cluster, request("sold"), "n1")

    async def then_cordoned(self) -> None:
        await self.rig.put(self.keys.node_spec("n1"), NodeSpec(cordoned=True))

    async def asked(self, token: Token) -> None:
        """The bearer's request is there."""
        async with asyncio.timeout(10):
            async for batch in self.cluster.store.watch(self.keys.join_prefix(token.id), 1):
                if batch.events:
                    return

    def dying(self, step: str, done: bool) -> Desk:
        """The desk of a process that dies before or after a step."""
        part, call = step.split(".")
        if part == "cluster":
            store: Any = Dying(self.cluster.store, call, done)
            return replace_desk(self.desk, Cluster(store, self.keys))
        return replace_desk(self.desk, **{part: Dying(getattr(self.desk, part), call, done)})

    async def credential(self, node: str = "n1") -> Credential:
        found = await self.cluster.read(Credential, self.keys.credential(node))
        assert found is not None
        return found.ok

    async def record(self, token: Token) -> JoinToken:
        found = await self.cluster.read(JoinToken, self.keys.token(token.id))
        assert found is not None
        return found.ok


async def quietly(asking: Any) -> Joined | Refusal:
    try:
        return await asking  # type: ignore[no-any-return]
    except Refusal as error:
        return error


def replace_desk(desk: Desk, cluster: Cluster | None = None, **more: Any) -> Desk:
    return dataclasses.replace(desk, cluster=cluster or desk.cluster, **more)


class Dies(Exception):
    """The process ended here."""


class Dying:
    """Wraps a part of the desk: the call of that number is done, and its caller dies."""

    def __init__(self, inner: Any, name: str, done: bool) -> None:
        self._inner, self._name, self._done = inner, name, done

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name != self._name:
            return found

        async def call(*args: Any, **more: Any) -> Any:
            if self._done:
                await found(*args, **more)
            raise Dies

        return call
