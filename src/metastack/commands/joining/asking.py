"""The new node's side: it asks, waits, and believes nothing but its token's CA.

Owns: the request, the proof of the answer, and telling a wrong clock from a late answer.
Refuses: files (:mod:`.layout`).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from contextlib import aclosing
from datetime import datetime
from typing import Final

from msgspec import Struct

from metastack.core.model import JoinAnswer, JoinRequest, JoinSettings
from metastack.core.state.cluster_state import seen
from metastack.core.state.codec import encode
from metastack.core.state.keys import Keys
from metastack.core.transaction import Put, Transaction
from metastack.pki.authority import fingerprint, make_request, public_bytes, signed_by
from metastack.pki.facts import user_of
from metastack.pki.files import load_certificate
from metastack.pki.refusal import Refusal, Why
from metastack.pki.sealed import unseal
from metastack.pki.subject import SubjectKind, subject
from metastack.pki.tokens import CLOCK_MOST_S, NodeKey, Token, clock_off, prove, turned_away
from metastack.ports import Denied, NotFound, Store

ANSWER_S: Final = 60.0
TRIES: Final = 3
"""Requests of one join: an answer that came late is asked for once more."""


class Joined(Struct, frozen=True, kw_only=True):
    """What a node was given."""

    node: str
    user: str
    certificate: bytes
    """PEM."""
    ca: bytes
    storage_key: str
    settings: JoinSettings


async def ask(
    store: Store,
    keys: Keys,
    token: Token,
    key: NodeKey,
    clock: Callable[[], datetime],
    *,
    hosts: tuple[str, ...] = (),
    storage_addresses: tuple[str, ...] = (),
    answer_s: float = ANSWER_S,
) -> Joined:
    """Join; raises Refusal with the reason. The same key may ask again until the token expires."""
    to = subject(SubjectKind.NODE, token.node)
    csr = make_request(to, key).decode()
    for left in reversed(range(TRIES)):
        sent = clock()
        nonce = os.urandom(16).hex()
        request = JoinRequest(
            id=token.id,
            nonce=nonce,
            node=token.node,
            ca_fingerprint=token.ca_fingerprint,
            request=csr,
            proof=prove(token, nonce, csr),
            hosts=hosts,
            storage_addresses=storage_addresses,
            sent_ms=int(sent.timestamp() * 1000),
        )
        try:
            async with asyncio.timeout(answer_s):
                answer = await _exchange(store, keys, request)
        except TimeoutError:
            raise Refusal(
                Why.NOT_ANSWERED,
                f"token {token.id}",
                f"no `metastack pki serve` answers within {answer_s:g} s",
                "on a management host: `systemctl status metastack-pki`; then repeat the same join",
            ) from None
        except (Denied, NotFound):
            raise turned_away(token, clock()) from None
        off_s = _off_s(sent, clock(), answer.at_ms)
        if answer.why == Why.CLOCK.value and left and abs(off_s) <= CLOCK_MOST_S:
            continue  # it lay there before it was answered: this clock is right
        if answer.why == Why.CLOCK.value and abs(off_s) > CLOCK_MOST_S:
            raise clock_off(f"token {token.id}", token.node, off_s)
        return _proven(token, key, request, answer)
    raise AssertionError("unreachable")


def _off_s(sent: datetime, heard: datetime, answered_ms: int) -> int:
    """By how much this clock is certainly off; ahead: above 0. The answer was written between the two."""
    answered_s = answered_ms / 1000
    behind_s, ahead_s = answered_s - heard.timestamp(), sent.timestamp() - answered_s
    if ahead_s > 0:
        return round(ahead_s)
    return -round(behind_s) if behind_s > 0 else 0


async def _exchange(store: Store, keys: Keys, request: JoinRequest) -> JoinAnswer:
    prefix = keys.join_prefix(request.id)
    snapshot = await store.list(prefix)
    put = Put(keys.join_request(request.id), encode(request))
    change = Transaction(name="join_request", guards=(), effects=(put,))
    async with aclosing(store.watch(prefix, snapshot.revision)) as batches:
        await store.commit(change)
        async for batch in batches:
            for event in batch.events:
                if event.key != keys.join_answer(request.id) or event.entry is None:
                    continue
                answer = seen(JoinAnswer, event.entry).record
                # An answer without a nonce: the request could not be read.
                if answer is not None and answer.nonce in (request.nonce, ""):
                    return answer
                # It is to a request that was put over this one, or before it.
                await store.commit(change)
    raise TimeoutError


def _proven(token: Token, key: NodeKey, request: JoinRequest, answer: JoinAnswer) -> Joined:
    """Safety: whoever can write the answer could give another CA or key; the token's CA must have signed it."""
    what = f"token {token.id}"
    if answer.why:
        known = {why.value: why for why in Why}
        raise Refusal(known.get(answer.why, Why.BAD_REQUEST), answer.object, answer.message, answer.hint)
    if answer.settings is None:
        raise Refusal(Why.BAD_REQUEST, what, "the answer lacks the settings", "upgrade the older host")
    certificate, ca = (
        load_certificate(answer.certificate.encode(), what),
        load_certificate(answer.ca.encode(), what),
    )
    if fingerprint(ca) != token.ca_fingerprint or not signed_by(certificate, ca):
        raise Refusal(Why.OTHER_CA, what, "the answer's certificate is not signed by the token's CA")
    to = subject(SubjectKind.NODE, token.node)
    if public_bytes(certificate.public_key()) != public_bytes(key.public_key()):
        raise Refusal(Why.KEY_MISMATCH, what, "the answer's certificate is for another key")
    if user_of(certificate) != to.user:
        raise Refusal(Why.OTHER_NAME, what, f"the answer's certificate is for {user_of(certificate)}")
    about = f"{token.id} {request.nonce} {token.node}"
    return Joined(
        node=token.node,
        user=to.user,
        certificate=answer.certificate.encode(),
        ca=answer.ca.encode(),
        storage_key=unseal(answer.sealed, key, about).decode() if answer.sealed else "",
        settings=answer.settings,
    )
