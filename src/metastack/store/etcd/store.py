"""The store on a real etcd: one method of the port, one request.

Owns: how the port's data become etcd's requests and back. Refuses: to retry a transaction that may have run.
Rule: every request has a deadline, and says truthfully whether it was applied, was not, or cannot tell.
aetcd gives the generated stubs only: its own client knows one endpoint, no TLS, and loses cancelled watches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from typing import Any, Final

import grpc.aio
from aetcd import rpc
from msgspec import Struct

from metastack.core.transaction import (
    Batch,
    Committed,
    Entry,
    Lease,
    Lost,
    Outcome,
    Snapshot,
    Transaction,
)
from metastack.ports import Broken, Compacted, LeaseGone, NoSpace, Refused, Unavailable
from metastack.settings import StoreSettings

from ...core.state.keys import prefix_end
from .channel import ATTEMPT_S, METADATA, TOTAL_S, Channels, Link, Send, broken_off
from .limits import named
from .messages import entry_of, key_of, txn_of
from .rights import RightsProof, prove
from .watch import WatchState

PAGE: Final = 2000
LIST_TRIES: Final = 3
"""How often a listing starts again when its revision is compacted under it."""

PART_S: Final = 30.0
"""Longest wait for the next part of a snapshot."""

_ALARMS: Final = ("NOSPACE", "CORRUPT")


Answers = list[Any]


class MemberStatus(Struct, frozen=True, kw_only=True):
    """What one endpoint says about itself."""

    endpoint: str
    error: str = ""
    """Why it did not answer; every other field is empty then."""
    version: str = ""
    member_id: int = 0
    leader_id: int = 0
    """0: it sees no leader."""
    revision: int = 0
    db_size_bytes: int = 0
    db_in_use_bytes: int = 0
    alarms: tuple[str, ...] = ()
    """``NOSPACE``, ``CORRUPT``: of the whole cluster."""

    @property
    def is_leader(self) -> bool:
        return self.leader_id != 0 and self.leader_id == self.member_id


class EtcdStore:
    """The ``Store`` port on etcd. Connects when first used; belongs to the event loop that uses it first."""

    def __init__(self, settings: StoreSettings, *, total_timeout_s: float = TOTAL_S) -> None:
        self._settings = settings
        self._channels = Channels(settings, total_timeout_s)

    async def get(self, key: str) -> Entry | None:
        request = rpc.RangeRequest(key=key_of(key))
        answer = await self._channels.ask(f"get {key}", _range(request), twice=True)
        return entry_of(answer.response.kvs[0]) if answer.response.kvs else None

    async def list(self, *prefixes: str) -> Snapshot:
        if not prefixes:
            raise Broken("list of no prefix")
        for _ in range(LIST_TRIES):
            try:
                return await self._list_once(prefixes)
            except Compacted:
                continue
        raise Unavailable(f"list {named(prefixes)}: compacted {LIST_TRIES} times while it was read")

    async def _list_once(self, prefixes: tuple[str, ...]) -> Snapshot:
        """The first page of every prefix in one transaction, the others at that transaction's revision."""
        spans = [(key_of(prefix), prefix_end(prefix)) for prefix in prefixes]
        heads = [rpc.RangeRequest(key=key, range_end=end, limit=PAGE) for key, end in spans]
        pages, header = await self._at_once(f"list {named(prefixes)}", heads)
        revision = header.revision
        entries: list[Entry] = []
        for prefix, (_, end), page in zip(prefixes, spans, pages, strict=True):
            entries.extend(entry_of(kv) for kv in page.kvs)
            more = page.more
            after = page.kvs[-1].key + b"\0" if more else b""
            while more:
                rest = rpc.RangeRequest(key=after, range_end=end, limit=PAGE, revision=revision)
                answer = await self._channels.ask(f"list {prefix}", _range(rest), twice=True)
                entries.extend(entry_of(kv) for kv in answer.response.kvs)
                more = answer.response.more
                after = answer.response.kvs[-1].key + b"\0" if more else b""
        return Snapshot(revision, tuple(entries), header.cluster_id, header.raft_term)

    async def _at_once(self, what: str, ranges: Sequence[Any]) -> tuple[Answers, Any]:
        """Several ranges at one revision: their answers, and the header that says which."""
        request = rpc.TxnRequest(success=[rpc.RequestOp(request_range=one) for one in ranges])

        async def send(link: Link, timeout_s: float) -> Any:
            return await link.kv.Txn(request, timeout=timeout_s, metadata=METADATA)

        try:
            answer = await self._channels.ask(what, send, twice=True)  # it only reads
            return [one.response_range for one in answer.response.responses], answer.response.header
        except NoSpace:
            # Without space 3.5.1 and older refuse every transaction, also one that would not write.
            pages: Answers = []
            for one in ranges:
                one.revision = pages[0].header.revision if pages else 0
                pages.append((await self._channels.ask(what, _range(one), twice=True)).response)
            return pages, pages[0].header

    async def commit(self, change: Transaction) -> Outcome:
        request = txn_of(change)

        async def send(link: Link, timeout_s: float) -> Any:
            return await link.kv.Txn(request, timeout=timeout_s, metadata=METADATA)

        answer = await self._channels.ask(f"commit {change.name}", send, twice=False)
        header = answer.response.header
        kind = Committed if answer.response.succeeded else Lost
        return kind(header.revision, header.cluster_id, header.raft_term)

    async def watch(
        self, prefix: str, after_revision: int, without: tuple[str, ...] = (), until: str = ""
    ) -> AsyncGenerator[Batch, None]:
        key, left_out = key_of(prefix), tuple(map(key_of, without))
        end = key_of(until) if until else prefix_end(prefix)
        watching = WatchState(self._channels, key, end, after_revision, left_out)
        try:
            while True:
                yield await watching.next()
        finally:
            watching.close()

    async def grant(self, ttl_s: int) -> Lease:
        async def send(link: Link, timeout_s: float) -> Any:
            request = rpc.LeaseGrantRequest(TTL=ttl_s)
            return await link.lease.LeaseGrant(request, timeout=timeout_s, metadata=METADATA)

        # May run twice: a lease that nobody learnt of holds no keys and expires.
        answer = await self._channels.ask("grant a lease", send, twice=True)
        return _lease(answer.response.ID, answer.response.TTL, answer.sent_s)

    async def renew(self, lease: Lease) -> Lease:
        async def send(link: Link, timeout_s: float) -> Any:
            call = link.lease.LeaseKeepAlive(timeout=timeout_s, metadata=METADATA)
            try:
                await call.write(rpc.LeaseKeepAliveRequest(ID=lease.id))
                response = await call.read()
                if not isinstance(response, rpc.LeaseKeepAliveResponse):
                    raise broken_off("the stream ended without an answer")
                return response
            finally:
                call.cancel()

        answer = await self._channels.ask(
            f"renew lease {lease.id:x}",
            send,
            twice=True,
            attempt_s=max(0.25, min(ATTEMPT_S, lease.ttl_s / 4)),
            total_s=min(self._channels.total_timeout_s, lease.ttl_s),
        )
        if answer.response.TTL <= 0:
            raise LeaseGone(f"lease {lease.id:x} no longer exists")
        return _lease(lease.id, answer.response.TTL, answer.sent_s)

    async def left_s(self, lease_id: int) -> float:
        async def send(link: Link, timeout_s: float) -> Any:
            request = rpc.LeaseTimeToLiveRequest(ID=lease_id)
            return await link.lease.LeaseTimeToLive(request, timeout=timeout_s, metadata=METADATA)

        try:
            answer = await self._channels.ask(f"time left of lease {lease_id:x}", send, twice=True)
        except LeaseGone:
            return 0.0
        return max(0.0, float(answer.response.TTL))

    async def revoke(self, lease: Lease) -> None:
        async def send(link: Link, timeout_s: float) -> Any:
            request = rpc.LeaseRevokeRequest(ID=lease.id)
            return await link.lease.LeaseRevoke(request, timeout=timeout_s, metadata=METADATA)

        try:
            await self._channels.ask(f"revoke lease {lease.id:x}", send, twice=True)
        except LeaseGone:
            return

    async def status(self) -> tuple[MemberStatus, ...]:
        """What every endpoint says about itself, asked side by side; never raises for one that is down."""
        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(self._status_of(link)) for link in self._channels.links]
        return tuple(task.result() for task in asked)

    async def _status_of(self, link: Link) -> MemberStatus:
        try:
            async with self._channels.refusals_named("status", link):
                await link.ready(ATTEMPT_S)
                status = await link.maintenance.Status(rpc.StatusRequest(), timeout=ATTEMPT_S)
        except (Unavailable, Refused, Broken) as error:
            return MemberStatus(endpoint=link.endpoint, error=str(error))
        return MemberStatus(
            endpoint=link.endpoint,
            version=status.version,
            member_id=status.header.member_id,
            leader_id=status.leader,
            revision=status.header.revision,
            db_size_bytes=status.dbSize,
            db_in_use_bytes=status.dbSizeInUse,
            # The Alarm request itself would need a quorum; the status repeats every alarm as text.
            alarms=tuple(sorted({name for name in _ALARMS for text in status.errors if name in text})),
        )

    async def count(self, *prefixes: str) -> tuple[int, tuple[int, ...]]:
        """The revision, and how many keys begin with each prefix at it."""
        spans = [(key_of(prefix), prefix_end(prefix)) for prefix in prefixes]
        asked = [rpc.RangeRequest(key=key, range_end=end, count_only=True) for key, end in spans]
        pages, header = await self._at_once(f"count {named(prefixes)}", asked)
        return header.revision, tuple(page.count for page in pages)

    async def snapshot(self) -> AsyncGenerator[tuple[bytes, int], None]:
        """One member's database in parts, each with the bytes that follow it, as etcd's tools restore it.

        It ends with the SHA-256 of all before. It holds everything that was committed before the call: the
        member answers a linearizable read first. Raises Denied without etcd's role ``root``.
        """

        async def send(link: Link, timeout_s: float) -> Any:
            await link.kv.Range(rpc.RangeRequest(key=b"\0"), timeout=timeout_s, metadata=METADATA)
            call = link.maintenance.Snapshot(rpc.SnapshotRequest(), metadata=METADATA)
            try:
                return link, call, await _part(call, timeout_s)
            except BaseException:
                call.cancel()
                raise

        link, call, part = (await self._channels.ask("snapshot", send, twice=True)).response
        try:
            async with self._channels.refusals_named("snapshot", link):
                while part is not grpc.aio.EOF:
                    yield part.blob, part.remaining_bytes
                    part = await _part(call, PART_S)
        finally:
            call.cancel()

    async def rights(self, forbidden: str, readable: str) -> RightsProof:
        """Whether this etcd enforces rights, by writes that must be refused and change nothing."""
        user = ""
        if self._settings.cert:
            from metastack.pki.own import own_user

            user = own_user(self._settings.cert)
        return await prove(self._channels, user, forbidden, readable)

    async def close(self) -> None:
        await self._channels.close()


async def _part(call: Any, timeout_s: float) -> Any:
    """The next message of a snapshot; raises AioRpcError also when none comes in time."""
    try:
        return await asyncio.wait_for(call.read(), timeout_s)
    except TimeoutError:
        raise broken_off(f"nothing came for {timeout_s:.2g} s") from None


def _range(request: Any) -> Send:
    async def send(link: Link, timeout_s: float) -> Any:
        return await link.kv.Range(request, timeout=timeout_s, metadata=METADATA)

    return send


def _lease(id_: int, ttl_s: int, sent_s: float) -> Lease:
    """Safety: etcd counts from the moment it answers, which is later than the moment we asked."""
    return Lease(id_, ttl_s, sent_s + ttl_s)
