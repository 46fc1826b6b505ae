"""Join tokens: what a person carries to a new node, what the cluster keeps of it, and every refusal.

A token is text: its kind, a JSON payload and a check sum. It holds a bootstrap certificate, whose etcd user
reaches ``join/ID`` and nothing else, and its key, which signs the request: that key is the token's secret.
Safety: one token admits one request. The same request again succeeds, since a join may die half-way; another
request is refused, so that a thief of a used token gains nothing.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from msgspec import Struct

from metastack.core.model import JoinRequest, JoinToken, valid_name

from .authority import (
    CLOCK_SLACK,
    PrivateKey,
    fingerprint,
    in_time,
    make_request,
    new_key,
    public_bytes,
    read_request,
    signed_by,
)
from .facts import user_of
from .files import load_certificate, load_key
from .refusal import Refusal, Why
from .subject import SubjectKind, subject

NodeKey = ec.EllipticCurvePrivateKey
"""What a joining node makes."""
KIND: Final = "mstoken1"
"""The first word of a token. A payload that an older reader would get wrong has another number."""
TTL: Final = timedelta(hours=1)
MIN_TTL: Final = timedelta(seconds=10)
MAX_TTL: Final = timedelta(days=1)
LINGER: Final = timedelta(minutes=10)
"""A bearer's certificate outlives its token by this much, so that somebody can still say that it is expired."""
CLOCK_MOST_S: Final = 60
"""A node's clock may differ by this much from the management host's."""
_STEM: Final = "mstoken"
_ID_BYTES: Final = 8
_CHECK: Final = 8
"""Hex digits of the check sum: against a token that was cut or mistyped, not against a forger."""
_LONGEST: Final = 16384


class Token(Struct, frozen=True, kw_only=True):
    """A token as its bearer reads it. Certificates and the key are DER."""

    id: str
    node: str
    endpoints: tuple[str, ...]
    """Of etcd."""
    root: str = "/metastack"
    """Prefix of every key."""
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


@dataclass(frozen=True)
class Bootstrap:
    """A token that its maker has, before ``pki serve`` signed the bearer's certificate."""

    id: str
    node: str
    key: PrivateKey

    @property
    def request(self) -> str:
        """PEM of the request for the bearer's certificate."""
        return make_request(subject(SubjectKind.JOIN, self.id), self.key).decode()

    def complete(self, certificate: bytes, ca: bytes, endpoints: tuple[str, ...], root: str) -> Token:
        """The token, once the CA has signed; raises Refusal for a certificate that is not its own."""
        signed, issuer = load_certificate(certificate, f"token {self.id}"), load_certificate(ca, "the CA")
        der = serialization.Encoding.DER
        token = Token(
            id=self.id,
            node=self.node,
            endpoints=endpoints,
            root=root,
            expires=signed.not_valid_after_utc - LINGER,
            ca_fingerprint=fingerprint(issuer),
            ca=issuer.public_bytes(der),
            cert=signed.public_bytes(der),
            key=self.key.private_bytes(der, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        )
        return parse_token(encode_token(token))


def begin_token(node: str, endpoints: tuple[str, ...], ttl: timedelta) -> Bootstrap:
    """A new token for a node of that name; raises Refusal for one that could not be used."""
    what = f"token for {node}"
    if not valid_name(node):
        raise Refusal(Why.BAD_NAME, what, "the node's name is not a DNS label", "use a-z, 0-9 and -")
    if not MIN_TTL <= ttl <= MAX_TTL:
        raise Refusal(Why.BAD_LIFE, what, "its lifetime must be 10 s to 24 h", "--ttl 1h")
    if not endpoints:
        raise Refusal(Why.BAD_HOST, what, "names no etcd endpoint")
    return Bootstrap(secrets.token_hex(_ID_BYTES), node, new_key())


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

    ``node``: its name, if it has one. ``ca``: of the cluster that it knows already. Whether it is expired only
    the cluster knows: this host's clock may be the one that is wrong (:func:`turned_away`).
    """
    what = f"token {token.id}"
    if node and node != token.node:
        raise _other_name(what, token.node, node)
    if ca is not None and fingerprint(ca) != token.ca_fingerprint:
        raise _other_ca(what, token.ca_fingerprint, fingerprint(ca))
    behind_s = (token.certificate().not_valid_before_utc + CLOCK_SLACK - now).total_seconds()
    if behind_s > CLOCK_MOST_S:
        raise Refusal(
            Why.CLOCK,
            what,
            f"was made {round(behind_s)} s from now: this host's clock is off by {round(behind_s)} s (behind)",
            "start its time synchronization and join again: `timedatectl`",
        )
    in_time(token.ca_certificate(), now, f"{what}: the CA")


def turned_away(token: Token, now: datetime) -> Refusal:
    """Why etcd itself refuses the bearer: nobody is left who could answer."""
    what, late_s = f"token {token.id}", int((now - token.expires).total_seconds())
    hint = f"`metastack node token create {token.node}` makes another"
    if late_s >= 0:
        return Refusal(Why.EXPIRED, what, f"expired {late_s} s ago by this host's clock", hint)
    return Refusal(Why.REVOKED, what, "etcd refuses it: it was revoked, or its time is over", hint)


def key_hash(public: object) -> str:
    """SHA-256 of a public key: what a token is spent on."""
    return hashlib.sha256(public_bytes(public)).hexdigest()


def admit(
    record: JoinToken | None, request: JoinRequest, ca: str, now: datetime, *, left_s: float
) -> ec.EllipticCurvePublicKey:
    """The public key that this request is admitted with; raises Refusal.

    ``ca``: fingerprint of the cluster's CA. ``left_s``: life of the token's lease as etcd counts it. So no two
    clocks are compared but the node's, which must be right, with this one.
    The proof is checked first: a bearer without the token's key learns nothing but that.
    A request that was admitted before is admitted again until the token expires: a join may die half-way.
    """
    what = f"token {request.id}"
    if record is None or record.id != request.id:
        raise Refusal(Why.UNKNOWN, what, "is not known here", "`metastack node token create` makes one")
    if not _proves(record, request):
        raise Refusal(Why.WRONG_SECRET, what, "the request is not signed by the token's key")
    if request.ca_fingerprint != ca:
        raise _other_ca(what, request.ca_fingerprint, ca)
    if request.node != record.node:
        raise _other_name(what, record.node, request.node)
    off_s = round(request.sent_ms / 1000 - now.timestamp())
    if abs(off_s) > CLOCK_MOST_S:
        raise clock_off(what, request.node, off_s)
    another = f"`metastack node token create {record.node}` makes another"
    if record.withdrawn:
        raise Refusal(Why.REVOKED, what, "was revoked", another)
    if left_s <= 0:
        raise Refusal(Why.EXPIRED, what, f"expired: its {record.ttl_s} s are over", another)
    public = read_request(request.request.encode(), subject(SubjectKind.NODE, record.node))
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise Refusal(Why.WEAK_KEY, what, "the node's key is not an EC key", "`metastack node join` makes one")
    if record.spent_on and record.spent_on != key_hash(public):
        raise Refusal(
            Why.USED,
            what,
            "was used by another request",
            f"if {request.node} was wiped, make another: `metastack node token create {request.node}`",
        )
    return public


def clock_off(what: str, node: str, off_s: int) -> Refusal:
    """The node's clock differs from the management host's; ahead: above 0."""
    way = "ahead" if off_s > 0 else "behind"
    return Refusal(
        Why.CLOCK,
        what,
        f"the clock of {node} is off by {abs(off_s)} s ({way})",
        "start its time synchronization and join again: `timedatectl`",
    )


def prove(token: Token, nonce: str, request: str) -> str:
    """What shows that the sender has the token: etcd's readers see it, and can make no other."""
    key = token.private_key()
    assert isinstance(key, NodeKey)
    return base64.b64encode(key.sign(_proven(token.id, nonce, request), ec.ECDSA(hashes.SHA256()))).decode()


def _proves(record: JoinToken, request: JoinRequest) -> bool:
    try:
        key = load_certificate(record.certificate.encode(), f"token {record.id}").public_key()
        proof = base64.b64decode(request.proof, validate=True)
        assert isinstance(key, ec.EllipticCurvePublicKey)
        key.verify(proof, _proven(request.id, request.nonce, request.request), ec.ECDSA(hashes.SHA256()))
    except (InvalidSignature, binascii.Error, ValueError, Refusal):
        return False
    return True


def _proven(ident: str, nonce: str, request: str) -> bytes:
    return "\0".join((ident, nonce, request)).encode()


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
