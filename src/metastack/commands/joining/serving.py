"""``pki serve``: follows tokens, requests and removed nodes, and does what each asks for.

Owns: what is looked at when, and that no bearer keeps the others waiting. Refuses: deciding
(:mod:`.answering`). Rule: several may run; nothing is remembered between two looks, so any of them may end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final
from urllib.parse import urlsplit

import structlog

from metastack.core.state.keys import Kind
from metastack.pki.folder import CaFolder
from metastack.pki.refusal import Refusal
from metastack.ports import Broken, Compacted, Refused, Unavailable
from metastack.ports.accounts import EtcdAccounts, NodeStorageUsers
from metastack.settings import StorageSettings

from ..request import Cluster, whoami
from .answering import Desk, answer, forget, sign, tidy

log = structlog.get_logger()

SWEEP_S: Final = 60.0
"""How often everything is looked at, whatever was heard."""
WORKERS: Final = 4
LOOK_S: Final = 60.0
"""Longest that one look may take; the next comes with the sweep."""
RETRY_S: Final = (0.5, 10.0)
MOST_ANSWERS: Final = 100
"""Answers that one token gets from this process. A join needs one or two."""

Item = tuple[str, str]
"""What is to be looked at: ``token``, ``join`` or ``credential``, and whose."""


def desk_of(
    cluster: Cluster,
    ca: CaFolder,
    accounts: EtcdAccounts,
    users: NodeStorageUsers,
    storage: StorageSettings,
    endpoints: Sequence[str],
) -> Desk:
    """What this host serves with. Hosts of etcd and of the storage's monitors are nobody's to ask for."""
    hosts = (_host_of(text) for text in (*endpoints, *storage.monitors))
    return Desk(
        cluster=cluster,
        ca=ca,
        accounts=accounts,
        storage_users=users,
        storage=storage,
        clock=lambda: datetime.now(UTC),
        by=whoami(),
        reserved=frozenset(filter(None, hosts)),
    )


def _host_of(text: str) -> str:
    try:
        return urlsplit(text if "//" in text else f"//{text}").hostname or ""
    except ValueError:
        return ""


class PkiServer:
    """One process that answers."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._queue: asyncio.Queue[Item] = asyncio.Queue()
        self._waiting: set[Item] = set()
        self._busy: set[Item] = set()
        self._answers: dict[str, int] = {}
        self.following = asyncio.Event()
        """Set once everything was listed."""

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until it is set."""
        keys = self.desk.cluster.keys
        prefixes = {
            "token": keys.prefix(Kind.TOKEN),
            "join": keys.joins(),
            "credential": keys.prefix(Kind.CREDENTIAL),
        }
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._follow(kind, prefix)) for kind, prefix in prefixes.items()]
            tasks += [group.create_task(self._work()) for _ in range(WORKERS)]
            await stop.wait()
            for task in tasks:
                task.cancel()

    def _note(self, kind: str, prefix: str, key: str) -> None:
        """Look at it once, however often it changed: who writes much waits as long as everybody."""
        item = (kind, key[len(prefix) :].split("/")[0])
        if item[1] and item not in self._waiting:
            self._waiting.add(item)
            self._queue.put_nowait(item)

    async def _follow(self, kind: str, prefix: str) -> None:
        store, pause_s = self.desk.cluster.store, RETRY_S[0]
        while True:
            try:
                found = await store.list(prefix)
                for entry in found.entries:
                    self._note(kind, prefix, entry.key)
                self.following.set()
                pause_s = RETRY_S[0]
                async with asyncio.timeout(SWEEP_S), aclosing(store.watch(prefix, found.revision)) as batches:
                    async for batch in batches:
                        for event in batch.events:
                            if event.entry is not None:
                                self._note(kind, prefix, event.key)
            except (TimeoutError, Compacted):
                pass
            except (Unavailable, Refused) as error:
                log.warning("etcd_unreachable", error=str(error), retry_in_s=pause_s)
                await asyncio.sleep(pause_s)
                pause_s = min(RETRY_S[1], pause_s * 2)

    async def _work(self) -> None:
        while True:
            item = await self._queue.get()
            self._waiting.discard(item)
            if item in self._busy:  # looked at by another worker right now: behind the others once more
                self._waiting.add(item)
                self._queue.put_nowait(item)
                await asyncio.sleep(0.05)
                continue
            self._busy.add(item)
            try:
                async with asyncio.timeout(LOOK_S):
                    await self._look(*item)
            except (Unavailable, Refused, Refusal, Broken, TimeoutError) as error:
                log.warning(
                    "join_look_failed", what=item[0], name=item[1], error=str(error) or "no answer in time"
                )
                asyncio.get_running_loop().call_later(RETRY_S[0] * 2, self._again, item)
            except Exception:
                # Rubbish of one bearer must not end the service of others.
                log.exception("join_look_crashed", what=item[0], name=item[1])
            finally:
                self._busy.discard(item)

    def _again(self, item: Item) -> None:
        if item not in self._waiting:
            self._waiting.add(item)
            self._queue.put_nowait(item)

    async def _look(self, kind: str, name: str) -> None:
        desk = self.desk
        if kind == "token":
            await sign(desk, name)
            if await forget(desk, name):
                self._answers.pop(name, None)
                log.info("token_forgotten", token=name)
        elif kind == "join":
            await self._answer(name)
        else:
            await tidy(desk, name)

    async def _answer(self, ident: str) -> None:
        if self._answers.get(ident, 0) >= MOST_ANSWERS:
            return
        why = await answer(self.desk, ident)
        if not why:
            return
        count = self._answers[ident] = self._answers.get(ident, 0) + 1
        if why == "ok":
            log.info("node_joined", token=ident)
        else:
            log.warning("join_refused", token=ident, why=why, times=count)
