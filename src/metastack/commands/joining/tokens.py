"""``node token create|list|revoke``: what a person does with join tokens.

Owns: validation, the token's record, and waiting until ``pki serve`` has signed it.
Refuses: the CA's key: whoever may write ``tokens/`` may make tokens, from anywhere.
"""

from __future__ import annotations

import asyncio
import ipaddress
from contextlib import aclosing
from datetime import timedelta
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from metastack.core.model import JoinToken, NodeAlive
from metastack.core.protocol.joining import withdraw_token
from metastack.core.state.cluster_state import Seen, seen
from metastack.core.state.codec import encode
from metastack.core.state.keys import Kind
from metastack.core.transaction import Entry, Put
from metastack.pki.authority import fingerprint, general_name
from metastack.pki.files import load_certificate
from metastack.pki.refusal import Refusal
from metastack.pki.tokens import begin_token, encode_token

from .. import names
from ..problem import Code, Problem, conflict, not_found, usage
from ..request import Cluster, Plan, Request, commit, readable
from ..spans import span_s, span_words

ANSWER_S: Final = 15.0
"""How long a running ``pki serve`` may take to sign."""


class NewToken(Struct, kw_only=True):
    """A token that was made. ``token`` is shown once and is nowhere else."""

    id: str
    node: str
    token: str
    ttl_s: int
    endpoints: list[str]
    ca_fingerprint: str


class TokenView(Struct, kw_only=True):
    """A token as a reader sees it."""

    id: str
    node: str
    state: str
    """``unsigned``, ``valid``, ``used``, ``revoked``, ``expired`` or ``refused``."""
    left_s: int
    by: str
    at: str
    reason: str | None = None
    message: str | None = None


def check_token(node: str, ttl: str, hosts: tuple[str, ...], addresses: tuple[str, ...]) -> int:
    """Its life in seconds; raises Problem before anything is done."""
    names.name("node", node)
    ttl_s = span_s("ttl", ttl, 10, 86_400)
    try:
        for host in hosts:
            general_name(host)
        for address in addresses:
            ipaddress.ip_address(address)
    except Refusal as error:
        raise usage("host", str(error)) from None
    except ValueError as error:
        raise usage("storage-address", str(error)) from None
    return ttl_s


async def create_token(
    cluster: Cluster,
    request: Request,
    node: str,
    endpoints: tuple[str, ...],
    *,
    ttl: str = "1h",
    hosts: tuple[str, ...] = (),
    storage_addresses: tuple[str, ...] = (),
    ca: bytes = b"",
    answer_s: float = ANSWER_S,
) -> NewToken:
    """Make a token. ``ca``: PEM of the CA that the caller trusts; another one is refused."""
    ttl_s, keys = check_token(node, ttl, hosts, storage_addresses), cluster.keys
    names.reason(request.reason)
    object = f"token for {node}"
    begun = begin_token(node, endpoints, timedelta(seconds=ttl_s))
    key = keys.token(begun.id)
    alive = await cluster.read(NodeAlive, keys.node_alive(node))
    if alive is not None:
        raise conflict(
            object,
            f"node {node} is alive and needs none",
            f"choose another name; to replace it: `metastack node drain {node} --wait`, then stop its agent",
        )
    lease = await cluster.store.grant(ttl_s)

    async def look() -> Plan[None]:
        record = JoinToken(
            id=begun.id,
            node=node,
            lease=lease.id,
            ttl_s=ttl_s,
            request=begun.request,
            hosts=hosts,
            storage_addresses=storage_addresses,
            by=request.by,
            reason=request.reason,
            at=request.at,
        )
        return Plan(
            guards=(),
            effects=(Put(key, encode(record)),),
            what="node.token",
            object=f"node {node}",
            message=f"token {begun.id} for {span_words(ttl_s)}",
            answer=None,
        )

    await commit(cluster, request, look)
    signed = await _signed(cluster, request, key, object, answer_s)
    try:
        token = begun.complete(signed.certificate.encode(), signed.ca.encode(), endpoints, keys.root)
        trusted = fingerprint(load_certificate(ca, "the context's CA")) if ca else token.ca_fingerprint
    except Refusal as error:
        raise Problem(Code.FAILED, object, f"the signed certificate is of no use: {error}") from None
    if trusted != token.ca_fingerprint:
        raise conflict(
            object,
            f"was signed by the CA {token.ca_fingerprint[:16]}, and this context trusts {trusted[:16]}",
            "stop the `pki serve` that has another CA, or correct `ca` in the context",
        )
    return NewToken(
        id=begun.id,
        node=node,
        token=encode_token(token),
        ttl_s=ttl_s,
        endpoints=list(endpoints),
        ca_fingerprint=token.ca_fingerprint,
    )


async def _signed(cluster: Cluster, request: Request, key: str, object: str, answer_s: float) -> JoinToken:
    """The record once it is signed; a token that nobody signs is withdrawn."""
    try:
        async with asyncio.timeout(answer_s):
            snapshot = await cluster.store.list(key)
            record = _one(snapshot.entries[0]) if snapshot.entries else None
            async with aclosing(cluster.store.watch(key, snapshot.revision)) as batches:
                while record is None or not (record.certificate or record.flaw):
                    batch = await anext(batches)
                    for event in batch.events:
                        record = _one(event.entry) if event.entry is not None else record
    except TimeoutError:
        found = await cluster.read(JoinToken, key)
        if found is not None and found.record is not None:
            await cluster.commit(withdraw_token(cluster.keys, found))
        raise Problem(
            Code.TIMEOUT,
            object,
            f"no `metastack pki serve` signed it within {answer_s:g} s",
            "on a management host: `systemctl status metastack-pki`",
        ) from None
    if record.flaw:
        raise Problem(Code.FAILED, object, f"`pki serve` does not sign it: {record.flaw}")
    return record


def _one(entry: Entry) -> JoinToken | None:
    return seen(JoinToken, entry).record


async def list_tokens(cluster: Cluster) -> list[TokenView]:
    """Every token that is on record, by node, the newest last."""
    views = []
    for entry in (await cluster.store.list(cluster.keys.prefix(Kind.TOKEN))).entries:
        record = seen(JoinToken, entry).record
        if record is not None:
            views.append(_view(record, int(await cluster.store.left_s(record.lease))))
    return sorted(views, key=lambda view: (view.node, view.at, view.id))


def _view(record: JoinToken, left_s: int) -> TokenView:
    state = "valid" if record.certificate else "unsigned"
    for holds, word in (
        (record.flaw, "refused"),
        (left_s <= 0, "expired"),
        (record.spent_on, "used"),
        (record.withdrawn, "revoked"),
    ):
        state = word if holds else state
    return TokenView(
        id=record.id,
        node=record.node,
        state=state,
        left_s=max(0, left_s),
        by=record.by,
        at=record.at,
        reason=record.reason or None,
        message=record.flaw or None,
    )


async def revoke_token(cluster: Cluster, request: Request, ident: str) -> TokenView:
    """Withdraw a token; what it admitted already stays (``node remove`` takes that back)."""
    object = f"token {ident}"
    if not ident or "/" in ident:
        raise usage("token", f"{ident!r} is not the id of a token", "`metastack node token list` shows them")
    key = cluster.keys.token(ident)

    async def look() -> Plan[JoinToken]:
        found: Seen[JoinToken] | None = await cluster.read(JoinToken, key)
        if found is None:
            raise not_found(object, "`metastack node token list` shows the tokens")
        record = readable(found, object)
        change = withdraw_token(cluster.keys, found)
        return Plan(
            guards=change.guards,
            effects=change.effects,
            what="node.token-revoke",
            object=f"node {record.node}",
            message=object,
            answer=record,
        )

    record = await commit(cluster, request, look)
    left_s = int(await cluster.store.left_s(record.lease))
    return _view(replace(record, withdrawn=True), left_s)
