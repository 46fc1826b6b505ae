"""Join tokens: what a person carries to a new node, what the cluster keeps of it, and every refusal.

A token is text: its kind, a JSON payload and a check sum. It holds a bootstrap certificate, whose etcd user
reaches ``join/ID`` and nothing else, and a secret, of which the cluster keeps a hash.
Safety: one token admits one request. The same request again succeeds, since a join may die half-way; another
request is refused, so that a thief of a used token gains nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import Final

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from msgspec import Struct

from metastack.core.model import valid_name

from .authority import (
    CLOCK_SLACK,
    Authority,
    PrivateKey,
    fingerprint,
    in_time,
    new_key,
    public_bytes,
    sign,
    signed_by,
)
from .facts import user_of
from .files import load_key
from .refusal import Refusal, Why
from .subject import SubjectKind, subject

KIND: Final = "mstoken1"
"""The first word of a token. A payload that an older reader would get wrong has another number."""
TTL: Final = timedelta(hours=1)
MAX_TTL: Final = timedelta(days=1)
"""A bootstrap certificate lives no longer."""
CLOCK_MOST_S: Final = 60
"""A node's clock may differ by this much from the management host's."""
_STEM: Final = "mstoken"
_ID_BYTES: Final = 8
_SECRET_BYTES: Final = 32
_CHECK: Final = 8
"""Hex digits of the check sum: against a token that was cut or mistyped, not against a forger."""
_LONGEST: Final = 16384


class Token(Struct, frozen=True, kw_only=True):
    """A token as its bearer reads it. Certificates and the key are DER."""

    id: str
    secret: str
    node: str
    endpoints: tuple[str, ...]
    """Of etcd."""
    expires: datetime
    ca_fingerprint: str
    ca: bytes
    cert: bytes
    key: bytes

    def __repr__(self) -> str:
        """Without what must not be in a log."""
        return f"Token(id={self.id!r}, node={self.node!r}, expires={self.expires.isoformat()!r})"

    @property
    def user(self) -> str:
        """The etcd user of its bearer."""
        return f"{SubjectKind.JOIN}.{self.id}"

    def ca_certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.ca)

    def certificate(self) -> x509.Certificate:
        return x509.load_der_x509_certificate(self.cert)

    def private_key(self) -> PrivateKey:
        pem = b"-----BEGIN PRIVATE KEY-----\n" + base64.encodebytes(self.key) + b"-----END PRIVATE KEY-----\n"
        return load_key(pem, f"token {self.id}")


class TokenRecord(Struct, frozen=True, kw_only=True):
    """A token as the cluster keeps it; nothing in it lets anybody join."""

    v: int = 1
    id: str
    node: str
    secret_hash: str
    ca_fingerprint: str
    cert_serial: str
    expires: datetime
    by: str = ""
    at: datetime
    spent_on: str = ""
    """SHA-256 of the public key that it admitted; empty: not used yet."""
    withdrawn: bool = False


class JoinRequest(Struct, frozen=True, kw_only=True):
    """What a node sends."""

    v: int = 1
    id: str
    secret: str
    node: str
    ca_fingerprint: str
    public_key: bytes
    """DER, of the certificate request that goes with it."""
    sent_at: datetime
    """By the node's clock."""


def make_token(
    authority: Authority,
    node: str,
    endpoints: tuple[str, ...],
    now: datetime,
    *,
    ttl: timedelta = TTL,
    by: str = "",
) -> tuple[Token, TokenRecord, x509.Certificate]:
    """A token for a node of that name, its record, and the bootstrap certificate; raises Refusal."""
    what = f"token for {node}"
    if not valid_name(node):
        raise Refusal(Why.BAD_NAME, what, "the node's name is not a DNS label", "use a-z, 0-9 and -")
    if not timedelta(0) < ttl <= MAX_TTL:
        raise Refusal(Why.BAD_LIFE, what, "its lifetime must be above 0 s and at most 24 h", "--ttl 1h")
    if not endpoints:
        raise Refusal(Why.BAD_HOST, what, "names no etcd endpoint")
    ident, secret, key = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES), new_key()
    expires = now.replace(microsecond=0) + ttl
    made = sign(authority, key.public_key(), subject(SubjectKind.JOIN, ident), now, life=expires - now)
    token = Token(
        id=ident,
        secret=secret,
        node=node,
        endpoints=endpoints,
        expires=expires,
        ca_fingerprint=authority.fingerprint,
        ca=authority.certificate.public_bytes(serialization.Encoding.DER),
        cert=made.public_bytes(serialization.Encoding.DER),
        key=key.private_bytes(
            serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
    )
    record = TokenRecord(
        id=ident,
        node=node,
        secret_hash=_hash(secret),
        ca_fingerprint=authority.fingerprint,
        cert_serial=f"{made.serial_number:040x}",
        expires=expires,
        by=by,
        at=now,
    )
    return token, record, made


def encode_token(token: Token) -> str:
    """As a person copies it: one word without characters that a shell or a mail changes."""
    body = base64.urlsafe_b64encode(msgspec.json.encode(token)).decode().rstrip("=")
    return f"{KIND}.{body}.{_check(body)}"


def parse_token(text: str) -> Token:
    """A token that is whole and whose parts fit each other; raises Refusal. Line breaks in it are ignored."""
    words = "".join(text.split())
    kind, _, rest = words.partition(".")
    if kind.startswith(_STEM) and kind != KIND and kind.removeprefix(_STEM).isdecimal():
        raise Refusal(
            Why.NEWER_TOKEN, "the token", f"is of a newer release ({kind})", "upgrade this node first"
        )
    if kind != KIND or len(words) > _LONGEST:
        raise Refusal(
            Why.NOT_A_TOKEN,
            "the token",
            f"does not begin with {KIND}.",
            "`metastack node token create` prints it",
        )
    body, _, check = rest.partition(".")
    damaged = Refusal(Why.DAMAGED, "the token", "was cut or changed on its way", "copy it again, all of it")
    if not hmac.compare_digest(check, _check(body)):
        raise damaged
    try:
        raw = base64.b64decode(body + "=" * (-len(body) % 4), altchars=b"-_", validate=True)
        token = msgspec.json.decode(raw, type=Token)
        ca, certificate, key = token.ca_certificate(), token.certificate(), token.private_key()
    except (binascii.Error, msgspec.MsgspecError, ValueError, Refusal):
        raise damaged from None
    what = f"token {token.id}"
    if fingerprint(ca) != token.ca_fingerprint or not signed_by(certificate, ca):
        raise Refusal(Why.OTHER_CA, what, "its certificate is not signed by the CA that it names")
    if public_bytes(certificate.public_key()) != public_bytes(key.public_key()):
        raise Refusal(Why.KEY_MISMATCH, what, "its key does not belong to its certificate")
    if user_of(certificate) != token.user:
        raise Refusal(Why.OTHER_NAME, what, f"its certificate is for {user_of(certificate) or 'nobody'}")
    return token


def check_token(token: Token, now: datetime, node: str = "", ca: x509.Certificate | None = None) -> None:
    """Raise Refusal if this node cannot use it: before anything is sent.

    ``node``: its name, if it has one. ``ca``: of the cluster that it knows already.
    """
    what = f"token {token.id}"
    if node and node != token.node:
        raise _other_name(what, token.node, node)
    if ca is not None and fingerprint(ca) != token.ca_fingerprint:
        raise _other_ca(what, token.ca_fingerprint, fingerprint(ca))
    if now >= token.expires:
        raise _expired(what, token.expires, now)
    behind_s = (token.certificate().not_valid_before_utc + CLOCK_SLACK - now).total_seconds()
    if behind_s > CLOCK_MOST_S:
        raise Refusal(
            Why.CLOCK,
            what,
            f"was made {round(behind_s)} s from now: this host's clock is off by {round(behind_s)} s (behind)",
            "start its time synchronization and join again: `timedatectl`",
        )
    in_time(token.ca_certificate(), now, f"{what}: the CA")


def join_request(token: Token, public: object, now: datetime) -> JoinRequest:
    """What the node sends, beside its certificate request."""
    return JoinRequest(
        id=token.id,
        secret=token.secret,
        node=token.node,
        ca_fingerprint=token.ca_fingerprint,
        public_key=public_bytes(public),
        sent_at=now,
    )


def admit(record: TokenRecord | None, request: JoinRequest, ca_fingerprint: str, now: datetime) -> TokenRecord:
    """The record once this request is admitted; raises Refusal. The caller writes it over the one it read.

    The secret is compared first: a bearer without it learns nothing but that it is wrong.
    A request that was admitted before is admitted again until the token expires, and changes nothing.
    """
    what = f"token {request.id}"
    if record is None or record.id != request.id:
        raise Refusal(Why.UNKNOWN, what, "is not known here", "`metastack node token create` makes one")
    if not hmac.compare_digest(record.secret_hash, _hash(request.secret)):
        raise Refusal(Why.WRONG_SECRET, what, "its secret is wrong")
    if request.ca_fingerprint != ca_fingerprint or record.ca_fingerprint != ca_fingerprint:
        raise _other_ca(what, request.ca_fingerprint, ca_fingerprint)
    if request.node != record.node:
        raise _other_name(what, record.node, request.node)
    off_s = round((request.sent_at - now).total_seconds())
    if abs(off_s) > CLOCK_MOST_S:
        way = "ahead" if off_s > 0 else "behind"
        raise Refusal(
            Why.CLOCK,
            what,
            f"the clock of {request.node} is off by {abs(off_s)} s ({way})",
            "start its time synchronization and join again: `timedatectl`",
        )
    if record.withdrawn:
        raise Refusal(Why.REVOKED, what, "was withdrawn", "`metastack node token create` makes another")
    if now >= record.expires:
        raise _expired(what, record.expires, now)
    spent_on = hashlib.sha256(request.public_key).hexdigest()
    if record.spent_on and record.spent_on != spent_on:
        raise Refusal(
            Why.USED,
            what,
            "was used by another request",
            f"if {request.node} was wiped, make another: `metastack node token create {request.node}`",
        )
    return msgspec.structs.replace(record, spent_on=spent_on)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _check(body: str) -> str:
    return hashlib.sha256(body.encode()).hexdigest()[:_CHECK]


def _other_name(what: str, node: str, said: str) -> Refusal:
    return Refusal(Why.OTHER_NAME, what, f"is for node {node}, not for {said}")


def _other_ca(what: str, said: str, has: str) -> Refusal:
    return Refusal(
        Why.OTHER_CA,
        what,
        f"is of another cluster: its CA is {said[:16]}, this one's is {has[:16]}",
        "compare it with `metastack pki list` on the management host",
    )


def _expired(what: str, expires: datetime, now: datetime) -> Refusal:
    return Refusal(
        Why.EXPIRED,
        what,
        f"expired {int((now - expires).total_seconds())} s ago",
        "`metastack node token create` makes another",
    )
