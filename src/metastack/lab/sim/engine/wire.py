"""The way between a simulated agent and the world: requests that go on when the agent is stopped or dead.

Owns: which protocol step each agent is in, and cutting a dead agent off.
Refuses: semantics; it passes every call on to the twins.
Rule: a request that was sent is nobody's: stopping or killing its sender does not call it back.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine
from contextvars import Context
from functools import partial
from typing import Any, Protocol, TypeVar

from msgspec.structs import replace

from ....core.transaction import Batch, Entry, Lease, Outcome, Snapshot, Transaction
from ....hypervisor.twin.hypervisor import MemoryHypervisor
from ....ports import Unavailable, UnknownOutcome
from ....storage.twin import MemoryStorage
from ....store.twin.store import MemoryStore
from .loop import Process

T = TypeVar("T")

Enter = Callable[[str], None]
PATIENCE_S = 5.0
"""As long as a client of etcd waits for an answer."""


class Steps:
    """The protocol steps that one agent is in right now."""

    def __init__(self, process: Process, entered: Callable[[str], None]) -> None:
        self._process, self._entered = process, entered
        self.now: dict[str, int] = {}

    def enter(self, step: str) -> None:
        if self._process.dead:
            raise Unavailable("this process is dead")
        self.now[step] = self.now.get(step, 0) + 1
        self._entered(step)

    def leave(self, step: str) -> None:
        left = self.now[step] - 1
        if left:
            self.now[step] = left
        else:
            del self.now[step]

    async def during(self, step: str, work: Coroutine[Any, Any, T]) -> T:
        """Await a call; the step lasts as long as the await."""
        try:
            self.enter(step)
        except Unavailable:
            work.close()
            raise
        try:
            return await work
        finally:
            self.leave(step)


class AnswerJudge(Protocol):
    """Compares etcd's answers with its history."""

    async def during(
        self, what: str, request: Callable[[], Coroutine[Any, Any, T]], judge: Callable[[T, int, int], str]
    ) -> T: ...
    def got(self, key: str) -> Callable[[Entry | None, int, int], str]: ...
    def listed(self, *prefixes: str) -> Callable[[Snapshot, int, int], str]: ...
    def told(self, change: Transaction) -> Callable[[Outcome, int, int], str]: ...


class WireStore:
    """The Store port: each request runs outside of the process that sent it."""

    def __init__(self, inner: MemoryStore, steps: Steps, judge: AnswerJudge) -> None:
        self._inner, self._steps, self._judge = inner, steps, judge
        self.late: tuple[str, float] | None = None
        """The next read of a key with that word in it is answered that many seconds late."""
        self.slow: tuple[str, float] | None = None
        """The next transaction of that name arrives that many seconds later, after its sender gave up."""
        self.missed_changes = ""
        """Events of keys that begin so never come."""

    async def _send(self, step: str, request: Coroutine[Any, Any, T]) -> T:
        try:
            self._steps.enter(step)
        except Unavailable:
            request.close()
            raise
        try:
            task = asyncio.get_running_loop().create_task(request, context=Context())
            task.add_done_callback(_seen)
            return await asyncio.shield(task)
        finally:
            self._steps.leave(step)

    async def get(self, key: str) -> Entry | None:
        request = partial(self._inner.get, key)
        if self.late is not None and self.late[0] in key:
            late_s, self.late = self.late[1], None
            request = partial(self._read_late, key, late_s)
        return await self._send("get", self._judge.during(f"get {key}", request, self._judge.got(key)))

    async def _read_late(self, key: str, late_s: float) -> Entry | None:
        entry = await self._inner.get(key)
        await asyncio.sleep(late_s)
        return entry

    async def list(self, *prefixes: str) -> Snapshot:
        judge = self._judge
        request = judge.during("list", partial(self._inner.list, *prefixes), judge.listed(*prefixes))
        return await self._send("list", request)

    async def commit(self, change: Transaction) -> Outcome:
        judge, what = self._judge, f"commit {change.name}"
        if self.slow is not None and self.slow[0] == change.name:
            slow_s, self.slow = self.slow[1], None
            late = judge.during(what, partial(self._commit_late, change, slow_s), judge.told(change))
            sent = self._send(change.name, late)
            try:
                async with asyncio.timeout(PATIENCE_S):
                    return await sent
            except TimeoutError:
                raise UnknownOutcome(f"commit {change.name}: no answer") from None
        return await self._send(
            change.name, judge.during(what, partial(self._inner.commit, change), judge.told(change))
        )

    async def _commit_late(self, change: Transaction, slow_s: float) -> Outcome:
        await asyncio.sleep(slow_s)
        return await self._inner.commit(change)

    async def watch(
        self, prefix: str, after_revision: int, without: tuple[str, ...] = (), until: str = ""
    ) -> AsyncGenerator[Batch, None]:
        async for batch in self._inner.watch(prefix, after_revision, without, until):
            if self.missed_changes:
                heard = tuple(event for event in batch.events if not event.key.startswith(self.missed_changes))
                batch = replace(batch, events=heard)
            yield batch

    async def grant(self, ttl_s: int) -> Lease:
        return await self._send("grant", self._inner.grant(ttl_s))

    async def renew(self, lease: Lease) -> Lease:
        return await self._send("renew", self._inner.renew(lease))

    async def left_s(self, lease_id: int) -> float:
        return await self._send("left_s", self._inner.left_s(lease_id))

    async def revoke(self, lease: Lease) -> None:
        await self._send("revoke", self._inner.revoke(lease))

    async def close(self) -> None:
        await self._inner.close()


class WireStorage(MemoryStorage):
    """The Storage port, with its steps told."""

    def __init__(self, *args: Any, steps: Steps, **more: Any) -> None:
        super().__init__(*args, **more)
        self._steps = steps

    async def _call(self, what: str, effect: Any, *, needs_io: bool = True) -> Any:
        return await self._steps.during(what, super()._call(what, effect, needs_io=needs_io))


class WireHypervisor:
    """The Hypervisor port of one agent on a host that outlives it."""

    def __init__(self, host: MemoryHypervisor, steps: Steps, told: Callable[[str, Any], None]) -> None:
        self._host, self._steps = host, steps
        self._told = told
        """Told of every guest that the agent asks to start or to end."""

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._host, name)
        if name in ("events", "interrupt"):
            return method

        async def call(*args: Any, **more: Any) -> Any:
            if name in ("boot", "kill", "shutdown"):
                self._told(name, args[0])
            step = "quiesce" if name == "quiesce_starts" else name
            return await self._steps.during(step, method(*args, **more))

        return call


def _seen(task: asyncio.Task[T]) -> None:
    if not task.cancelled():
        task.exception()
