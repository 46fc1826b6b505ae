"""One request of a new node: judged, everything made that it is given, and one transaction.

Owns: the order of the steps. Refuses: watching (:mod:`.serving`), and trusting anything that a bearer wrote.
Rule: certificate, etcd user and storage user are made first, each so that making it again gives the same one;
the transaction gives them out. If a process dies in between, the next one that looks at the request finishes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from msgspec.structs import replace

from metastack.core.etcd_roles import join_role, node_role
from metastack.core.model import (
    Credential,
    JoinAnswer,
    JoinRequest,
    JoinSettings,
    JoinToken,
    NodeAlive,
    NodeFacts,
    NodeSpec,
    RevokedSerial,
    valid_name,
)
from metastack.core.protocol.joining import admit_node, forget_token, sign_token, taken_back, turn_away
from metastack.core.state.cluster_state import Seen, seen
from metastack.core.state.keys import Kind
from metastack.core.transaction import Entry
from metastack.pki.authority import PublicKey, Revoked, general_name, read_request, serial_text
from metastack.pki.files import certificate_pem, load_certificate
from metastack.pki.folder import CaFolder
from metastack.pki.refusal import Refusal, Why
from metastack.pki.sealed import seal
from metastack.pki.subject import SubjectKind, subject
from metastack.pki.tokens import LINGER, admit, key_hash
from metastack.ports import Broken, LeaseGone, Refused, Unavailable
from metastack.ports.accounts import NODE_USERS, EtcdAccounts, NodeStorageUser, NodeStorageUsers
from metastack.settings import StorageSettings

from ..problem import Problem
from ..request import Cluster, Plan, Request, Unchanged, commit, rfc3339

LONGEST_NONCE: Final = 64
LARGEST: Final = 16_384
"""Bytes of a request. A larger one is not parsed."""
MOST_HOSTS: Final = 8
_ID: Final = 16


@dataclass(frozen=True)
class Desk:
    """What ``pki serve`` works with."""

    cluster: Cluster
    ca: CaFolder
    accounts: EtcdAccounts
    storage_users: NodeStorageUsers
    storage: StorageSettings
    """What nodes are told of the storage."""
    clock: Callable[[], datetime]
    by: str
    """Name of this process in the audit log: ``user@host``."""
    reserved: frozenset[str] = frozenset()
    """Hosts of etcd and the storage: a node gets one only if its token names it."""

    def request(self, ident: str, step: str, reason: str = "") -> Request:
        """As which one step for a token is recorded: the same each time, so it is recorded once."""
        return Request(by=self.by, reason=reason, request_id=f"{ident}-{step}", at_ms=self.now_ms())

    def now_ms(self) -> int:
        return int(self.clock().timestamp() * 1000)

    def revoke(self, revoked: Iterable[RevokedSerial]) -> bool:
        """Put these serials into the revocation list of this host."""
        return self.ca.take_over(
            [
                Revoked(serial=one.serial, user=one.user, at=datetime.fromisoformat(one.at), reason=one.reason)
                for one in revoked
            ]
        )


def storage_user(node: str, ident: str) -> str:
    """Name of a node's storage user: of one join alone, so that no earlier holder has its key."""
    return f"{NODE_USERS}{node}-{ident[:8]}"


async def sign(desk: Desk, ident: str) -> None:
    """Give a new token its bearer's certificate and user, or say on its record why not."""
    keys = desk.cluster.keys
    found = await desk.cluster.read(JoinToken, keys.token(ident))
    if found is None or found.record is None or found.record.certificate or found.record.flaw:
        return
    record, to = found.record, subject(SubjectKind.JOIN, ident)
    left_s = await desk.cluster.store.left_s(record.lease)
    if left_s <= 0 or record.withdrawn:
        return
    try:
        if record.id != ident or len(ident) != _ID or not valid_name(record.node):
            raise Refusal(Why.BAD_NAME, f"token {ident}", "its record does not fit its key")
        for host in record.hosts:
            general_name(host)
        _addresses(record.storage_addresses)
        public = read_request(record.request.encode(), to)
        # Safety: the role first. A user without it reaches nothing; its certificate comes last.
        await desk.accounts.apply((join_role(keys, ident),), {to.user: to.etcd_roles()})
        made = desk.ca.sign(public, to, life=timedelta(seconds=left_s) + LINGER)
        signed = replace(
            record,
            certificate=certificate_pem(made).decode(),
            ca=desk.ca.authority.certificate_pem.decode(),
            over_ms=int(made.not_valid_after_utc.timestamp() * 1000),
        )
    except Refusal as error:
        signed = replace(record, flaw=str(error))
    except (Refused, Broken) as error:
        signed = replace(record, flaw=f"its etcd user could not be made: {error}")
    await desk.cluster.commit(sign_token(keys, found, signed))


async def answer(desk: Desk, ident: str) -> str:
    """Answer a bearer's request; the reason of a refusal, ``ok``, or empty if there is nothing to answer."""
    keys, store = desk.cluster.keys, desk.cluster.store
    asked = await store.get(keys.join_request(ident))
    if asked is None or _answered(await store.get(keys.join_answer(ident)), asked.mod_revision):
        return ""
    nonce = ""
    try:
        if len(asked.value) > LARGEST:
            raise Refusal(Why.BAD_REQUEST, f"token {ident}", f"its request is larger than {LARGEST} bytes")
        request = seen(JoinRequest, asked)
        if request.record is None or request.record.id != ident:
            raise Refusal(
                Why.BAD_REQUEST, f"token {ident}", "its request cannot be read", "upgrade the older host"
            )
        nonce = request.record.nonce[:64]
        await _admit(desk, ident, request)
    except Refusal as error:
        refused = JoinAnswer(
            nonce=nonce,
            at_ms=desk.now_ms(),
            why=error.why.value,
            object=error.object,
            message=error.message,
            hint=error.hint,
        )
        await desk.cluster.commit(turn_away(keys, ident, asked.mod_revision, refused))
        return error.why.value
    return "ok"


def _answered(entry: Entry | None, asked: int) -> bool:
    """Safety: by revisions, which the bearer does not choose; what it writes into either key fools itself."""
    return entry is not None and entry.mod_revision > asked


async def _admit(desk: Desk, ident: str, asked: Seen[JoinRequest]) -> None:
    """Raises Refusal."""
    cluster, keys, request = desk.cluster, desk.cluster.keys, asked.ok

    async def look() -> Plan[None] | Unchanged[None]:
        if _answered(await cluster.store.get(keys.join_answer(ident)), asked.mod):
            return Unchanged(None)  # by another host
        token = await cluster.read(JoinToken, keys.token(ident))
        record = token.record if token is not None else None
        left_s = await cluster.store.left_s(record.lease) if record is not None else 0.0
        public = admit(record, request, desk.ca.authority.fingerprint, desk.clock(), left_s=left_s)
        assert token is not None and record is not None
        node, hashed = record.node, key_hash(public)
        before = await cluster.read(Credential, keys.credential(node))
        if before is not None and before.record is None:
            raise Refusal(Why.BAD_REQUEST, f"node {node}", f"its credentials cannot be read: {before.why}")
        had = before.record if before is not None else None
        if had is not None and had.removing:
            try:
                await finish(desk, node)
            except (Unavailable, Refused, Broken) as error:
                what = f"its credentials of before its removal are not taken back yet: {error}"
                raise Refusal(Why.STORAGE_USER, f"node {node}", what, _AGAIN) from None
            before = await cluster.read(Credential, keys.credential(node))
            had = before.record if before is not None else None
        same = had is not None and had.key_hash == hashed and bool(had.user)
        if record.spent_on and not (same and had is not None and had.token == ident):
            raise Refusal(
                Why.USED,
                f"token {ident}",
                f"was used, and {node} joined again or was removed since",
                f"`metastack node token create {node}` makes another",
            )
        if not same and await cluster.store.get(keys.node_alive(node)) is not None:
            raise Refusal(
                Why.ALIVE,
                f"node {node}",
                "is alive on another machine",
                "stop that one's agent, or join under another name",
            )
        hosts, addresses = await _places(desk, record, request)
        given = await _given(desk, record, public, had if same else None, had, hosts, addresses)
        made = await _storage_user(desk, given.storage_user, addresses)
        about = f"{ident} {request.nonce} {node}"
        reply = JoinAnswer(
            nonce=request.nonce,
            at_ms=desk.now_ms(),
            certificate=given.certificate,
            ca=desk.ca.authority.certificate_pem.decode(),
            sealed=seal(made.key.encode(), public, about) if made.key else "",
            settings=_settings(desk, made.user, addresses),
        )
        spec = None
        if await cluster.store.get(keys.node_spec(node)) is None:
            spec = NodeSpec(by=record.by, reason=record.reason, request_id=ident)
        change = admit_node(keys, token, asked, before, given, reply, spec, hashed)
        return Plan(
            guards=change.guards,
            effects=change.effects,
            what="node.join",
            object=f"node {node}",
            message=f"by token {ident} of {record.by}",
            answer=None,
            lease=change.lease,
        )

    try:
        await commit(cluster, desk.request(ident, str(asked.mod)), look)
    except LeaseGone:
        raise Refusal(
            Why.EXPIRED, f"token {ident}", "expired", "`metastack node token create` makes another"
        ) from None
    except Problem as error:
        raise Refusal(Why.BAD_REQUEST, error.object, error.message, error.hint) from None
    found = await cluster.read(Credential, keys.credential(request.node))
    if found is not None and found.record is not None:
        await tidy(desk, found.record.node)


async def _given(
    desk: Desk,
    token: JoinToken,
    public: PublicKey,
    same: Credential | None,
    had: Credential | None,
    hosts: tuple[str, ...],
    addresses: tuple[str, ...],
) -> Credential:
    """What this node is given: the very same again to the same key."""
    node, to, keys = token.node, subject(SubjectKind.NODE, token.node), desk.cluster.keys
    certificate = desk.ca.signed_for(to, public, hosts) or desk.ca.sign(public, to, hosts)
    pem = certificate_pem(certificate).decode()
    try:
        await desk.accounts.apply((node_role(keys, node),), {to.user: to.etcd_roles()})
    except (Refused, Broken) as error:
        raise Refusal(
            Why.ETCD_USER, f"node {node}", f"its etcd user could not be made: {error}", _AGAIN
        ) from None
    user = storage_user(node, token.id) if desk.storage.kind == "ceph" else ""
    revoked, stale = (had.revoked, had.stale_users) if had is not None else ((), ())
    if had is not None and had.certificate and same is None:
        revoked = (*revoked, _revocation(desk, had, "joined again"))
    if had is not None and had.storage_user not in ("", user):
        stale = (*stale, had.storage_user)
    return Credential(
        node=node,
        user=to.user,
        certificate=pem,
        key_hash=key_hash(public),
        storage_user=user,
        stale_users=stale,
        hosts=hosts,
        storage_addresses=addresses,
        token=token.id,
        at=rfc3339(desk.now_ms()),
        by=token.by,
        reason=token.reason,
        revoked=revoked,
    )


_AGAIN: Final = "repair it, then repeat the same join: the token is not spent"


async def _storage_user(desk: Desk, user: str, addresses: tuple[str, ...]) -> NodeStorageUser:
    if not user:
        return NodeStorageUser()
    try:
        return await desk.storage_users.make(user, addresses)
    except (Unavailable, Refused, Broken) as error:
        raise Refusal(
            Why.STORAGE_USER, f"client.{user}", f"the storage user could not be made: {error}", _AGAIN
        ) from None


def _settings(desk: Desk, user: str, addresses: tuple[str, ...]) -> JoinSettings:
    storage = desk.storage
    return JoinSettings(
        root=desk.cluster.keys.root,
        storage_kind=storage.kind,
        pool=storage.pool,
        monitors=storage.monitors,
        user=user,
        directory=storage.directory,
        storage_addresses=addresses,
    )


def _revocation(desk: Desk, had: Credential, reason: str) -> RevokedSerial:
    old = load_certificate(had.certificate.encode(), f"node {had.node}")
    at = desk.clock().replace(microsecond=0).isoformat()
    return RevokedSerial(serial=serial_text(old.serial_number), user=had.user, at=at, reason=reason)


# --- names and addresses --------------------------------------------------------------------------------


def _addresses(texts: Iterable[str]) -> tuple[str, ...]:
    """IP addresses in one form; raises Refusal. They become part of a capability's text."""
    try:
        return tuple(dict.fromkeys(str(ipaddress.ip_address(text)) for text in texts))
    except ValueError as error:
        raise Refusal(Why.BAD_HOST, "storage address", str(error)[:100]) from None


async def _places(
    desk: Desk, token: JoinToken, request: JoinRequest
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Hosts of the certificate and storage addresses of this node; raises Refusal.

    Safety: a certificate for another's address would serve in its place, and the right to lift the block of
    another's address would end that one's fence. So what a person wrote into the token counts, and else only
    what nobody has.
    """
    if max(len(request.hosts), len(request.storage_addresses)) > MOST_HOSTS:
        raise Refusal(Why.BAD_REQUEST, f"token {token.id}", f"names more than {MOST_HOSTS} hosts")
    hosts = token.hosts or request.hosts
    addresses = _addresses(token.storage_addresses or request.storage_addresses)
    for host in hosts:
        general_name(host)
    if desk.storage.kind == "ceph" and not addresses:
        raise Refusal(
            Why.BAD_HOST,
            f"node {token.node}",
            "names no address that it uses towards the storage",
            f"`metastack node token create {token.node} --storage-address IP`",
        )
    named = {*token.hosts, *token.storage_addresses}
    asked = {_plain(host) for host in (*hosts, *addresses)} - {_plain(host) for host in named}
    if theirs := sorted(asked & await _taken(desk, token.node)):
        raise Refusal(
            Why.OTHER_ADDRESS,
            f"node {token.node}",
            f"asks for {theirs[0]}, which belongs to another machine of the cluster",
            f"if it is this node's: `metastack node token create {token.node} --host {theirs[0]}`",
        )
    return tuple(dict.fromkeys((token.node, *hosts))), addresses


def _plain(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host.lower().removesuffix(".")


async def _taken(desk: Desk, node: str) -> set[str]:
    """Hosts and addresses of everybody else."""
    keys, found = desk.cluster.keys, {_plain(host) for host in desk.reserved}
    prefixes = keys.prefixes((Kind.NODE_FACTS, Kind.NODE_ALIVE, Kind.CREDENTIAL))
    for entry in (await desk.cluster.store.list(*prefixes)).entries:
        parsed = keys.parse(entry.key)
        if parsed is None or parsed.names[0] == node:
            continue
        found.add(parsed.names[0])
        if parsed.kind is Kind.NODE_FACTS and (facts := seen(NodeFacts, entry).record) is not None:
            found.update(map(_plain, facts.storage_addresses))
        if parsed.kind is Kind.NODE_ALIVE and (alive := seen(NodeAlive, entry).record) is not None:
            found.update(map(_plain, filter(None, (alive.address, alive.storage_address))))
        if parsed.kind is Kind.CREDENTIAL and (given := seen(Credential, entry).record) is not None:
            found.update(map(_plain, (*given.hosts, *given.storage_addresses)))
    return found


# --- taking back ----------------------------------------------------------------------------------------


async def finish(desk: Desk, node: str) -> bool:
    """Take back what a removed node was given; False: nothing is to be taken back.

    Safety: the record stays until each part is gone, and each step may be done twice.
    """
    keys = desk.cluster.keys
    found = await desk.cluster.read(Credential, keys.credential(node))
    if found is None or found.record is None or not found.record.removing:
        return False
    had = found.record
    await desk.accounts.remove([subject(SubjectKind.NODE, node).user], [node_role(keys, node).name])
    for user in (*had.stale_users, had.storage_user):
        if user:
            await desk.storage_users.remove(user)
    revoked = had.revoked
    if had.certificate:
        revoked = (*revoked, _revocation(desk, had, had.reason or "the node was removed"))
    desk.revoke(revoked)
    left = Credential(node=node, user="", by=had.by, reason=had.reason, at=had.at, revoked=revoked)
    await desk.cluster.commit(taken_back(keys, found, left))
    return True


async def tidy(desk: Desk, node: str) -> None:
    """What an earlier join of this name left: its storage user, and its certificate in this host's list."""
    keys = desk.cluster.keys
    found = await desk.cluster.read(Credential, keys.credential(node))
    if found is None or found.record is None:
        return
    if found.record.removing:
        await finish(desk, node)
        return
    desk.revoke(found.record.revoked)
    if found.record.stale_users:
        for user in found.record.stale_users:
            await desk.storage_users.remove(user)
        await desk.cluster.commit(taken_back(keys, found, replace(found.record, stale_users=())))


async def forget(desk: Desk, ident: str) -> bool:
    """Delete a token that is over, its user and what its bearer wrote; False: it is not over yet."""
    keys = desk.cluster.keys
    found = await desk.cluster.read(JoinToken, keys.token(ident))
    if found is None or found.record is None:
        return False
    record = found.record
    if desk.now_ms() < record.over_ms or (
        not record.certificate and await desk.cluster.store.left_s(record.lease) > 0
    ):
        return False
    to = subject(SubjectKind.JOIN, ident)
    await desk.accounts.remove([to.user], to.etcd_roles())
    given = await desk.cluster.read(Credential, keys.credential(record.node))
    left, user = given.record if given is not None else None, storage_user(record.node, ident)
    if desk.storage.kind == "ceph" and (left is None or left.storage_user != user):
        await desk.storage_users.remove(user)  # of a join that died half-way
    await desk.cluster.commit(forget_token(keys, found))
    return True
