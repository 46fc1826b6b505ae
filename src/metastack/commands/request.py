"""A request: who asks for what, when and why, and the one transaction that does it.

Owns: the cluster handle that every command gets, the request's identity, the guarded commit with its event.
Refuses: a write without an event; a write whose outcome is guessed.
Rule: the event is in the same transaction as what it tells of and its key is the request's own. So a lost
reply is told from a lost race by looking whether the event is there, and no request is applied twice.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final, Generic, TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from metastack.core.model import ClusterConfig, Event, Record
from metastack.core.state.cluster_state import Seen, seen
from metastack.core.state.codec import Unreadable, decode, encode
from metastack.core.state.keys import Keys
from metastack.core.state.record_versions import LEVEL, lost, settings_level, written
from metastack.core.transaction import Committed, Delete, Guard, Outcome, Put, Transaction
from metastack.ports import Store, UnknownOutcome

from .problem import Code, Problem, conflict

ATTEMPTS: Final = 8
"""How often a command looks again after losing a race; every loss means that somebody else got on."""
VMS_AT_ONCE: Final = 16
"""VMs in one transaction of ``vm create``: three puts each, well below etcd's 128 operations."""

R = TypeVar("R", bound=Record)
T = TypeVar("T")


class KnownCluster(Struct):
    """What one process learned of the cluster and need not ask for again."""

    level: int = 0
    """The record level; 0: not asked yet. It never falls, so a newest one stays true."""


class Cluster(Struct, frozen=True):
    """What commands work on."""

    store: Store
    keys: Keys
    known: KnownCluster = field(default_factory=KnownCluster)

    async def read(self, kind: type[R], key: str) -> Seen[R] | None:
        """One record, or None when the key is absent."""
        entry = await self.store.get(key)
        return None if entry is None else seen(kind, entry)

    async def config(self) -> ClusterConfig:
        """The platform's settings; raises Problem when they do not parse."""
        entry = await self.store.get(self.keys.cluster())
        if entry is None:
            return ClusterConfig()
        try:
            return decode(ClusterConfig, entry.value, entry.key)
        except Unreadable as error:
            raise broken("config", error.why) from None

    async def level(self) -> int:
        """The record level that this cluster's writers keep to; 1 while its settings cannot be read."""
        if self.known.level < LEVEL:
            found = await self.read(ClusterConfig, self.keys.cluster())
            config = found.record if found is not None else None
            self.known.level = settings_level(config) if config is not None else 1
        return self.known.level

    async def commit(self, change: Transaction) -> Outcome:
        """One transaction, in records of the cluster's level. Raises UnknownOutcome, Unavailable."""
        return await self.store.commit(written(change, self.keys, await self.level()))


class Request(Struct, frozen=True, kw_only=True):
    """One request."""

    by: str
    """user@host until identities exist."""
    reason: str
    request_id: str
    at_ms: int
    """Milliseconds since the epoch."""

    @property
    def at(self) -> str:
        """RFC 3339, UTC."""
        return rfc3339(self.at_ms)

    def later(self) -> Request:
        """The same request, now: for the last step of something long."""
        return replace(self, at_ms=time.time_ns() // 1_000_000)


class Plan(Struct, Generic[T], frozen=True, kw_only=True):
    """What a command decided after looking: guards and effects, and what it answers when they hold."""

    guards: tuple[Guard, ...]
    effects: tuple[Put | Delete, ...]
    what: str
    """The event's name, such as ``vm.create``."""
    object: str
    message: str = ""
    answer: T
    lease: int = 0


class Unchanged(Struct, Generic[T], frozen=True):
    """There is nothing to write: it is as requested already."""

    answer: T


def rfc3339(at_ms: int) -> str:
    """Milliseconds since the epoch as text."""
    moment = datetime.fromtimestamp(at_ms / 1000, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{at_ms % 1000:03d}Z"


def whoami() -> str:
    """``user@host``; through sudo the user who called it."""
    user = os.environ.get("SUDO_USER", "")
    if not user:
        import getpass  # only where something is written

        try:
            user = getpass.getuser()
        except (KeyError, OSError):
            user = str(os.getuid())
    return f"{user}@{socket.gethostname()}"


def new_request(reason: str = "", by: str = "") -> Request:
    """A request of this process's user, now."""
    return Request(
        by=by or whoami(), reason=reason, request_id=os.urandom(8).hex(), at_ms=time.time_ns() // 1_000_000
    )


def broken(object: str, why: str, hint: str = "") -> Problem:
    """A record that does not parse or is of a newer version: left alone."""
    return Problem(
        Code.FAILED,
        object,
        f"its record cannot be read and is ignored: {why}",
        hint or "upgrade this program",
    )


def too_new(object: str, fields: list[str]) -> Problem:
    """An older program that edits the record would lose it without a word."""
    return Problem(
        Code.FAILED,
        object,
        f"{', '.join(fields)}: the cluster still writes records of an older release, which lack this field",
        "upgrade every node, then run `metastack cluster upgrade-finish`",
    )


def readable(found: Seen[R], object: str, hint: str = "") -> R:
    """The record, or a problem that says why it cannot be read."""
    if found.record is None:
        raise broken(object, found.why, hint)
    return found.record


async def commit(
    cluster: Cluster, request: Request, look: Callable[[], Awaitable[Plan[T] | Unchanged[T]]], step: str = ""
) -> T:
    """Look, decide, write; look again when somebody else was faster.

    ``step`` tells the transactions of one request apart.
    """
    event_key = cluster.keys.event(request.at_ms, request.request_id + (f"-{step}" if step else ""))
    object = ""
    for _ in range(ATTEMPTS):
        plan = await look()
        if isinstance(plan, Unchanged):
            return plan.answer
        object = plan.object
        event = Event(
            at=request.at,
            by=request.by,
            what=plan.what,
            object=plan.object,
            message=plan.message,
            reason=request.reason,
            request_id=request.request_id,
        )
        change = Transaction(
            name=plan.what,
            # Safety: with the event's absence as a guard a late first try cannot follow a second one.
            guards=(*plan.guards, Guard(event_key, "mod", 0)),
            effects=(*plan.effects, Put(event_key, encode(event))),
            lease=plan.lease,
        )
        if dropped := lost(change, cluster.keys, await cluster.level()):
            raise too_new(plan.object, dropped)
        try:
            if isinstance(await cluster.commit(change), Committed):
                return plan.answer
        except UnknownOutcome:
            pass
        if await cluster.store.get(event_key) is not None:
            return plan.answer
    raise conflict(object, f"was changed by others during all {ATTEMPTS} attempts", "check it and try again")
