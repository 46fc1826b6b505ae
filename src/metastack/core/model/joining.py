"""Records of joining: a token as the cluster keeps it, what a new node and ``pki serve`` tell each other, and
what a node was given.

Rule: the exchange below ``join/ID`` is written by the bearer of a token. Nothing in it is trusted, and nothing
that decides lies there. What a node was given stays on record until every part of it is taken back.
"""

from __future__ import annotations

from msgspec import Struct

from .numbers import Record


class JoinToken(Record, frozen=True, kw_only=True):
    """``tokens/ID``: a token; nothing in it lets anybody join. Its life is ``lease``, which etcd counts."""

    id: str
    node: str
    lease: int
    """Granted for ``ttl_s`` and renewed by nobody: once it ended, the token is expired."""
    ttl_s: int
    request: str = ""
    """PEM of the request for the bearer's certificate; its key is in the token alone."""
    hosts: tuple[str, ...] = ()
    """Hosts that the node's certificate names; empty: those that the node asks for."""
    storage_addresses: tuple[str, ...] = ()
    """Addresses whose block the node may lift; empty: those that the node asks for."""
    certificate: str = ""
    """PEM of the bearer's certificate; empty: ``pki serve`` has not signed it yet."""
    ca: str = ""
    """PEM of the CA."""
    flaw: str = ""
    """Why ``pki serve`` signs it not."""
    over_ms: int = 0
    """When the bearer's certificate expires, by the clock of the host that signed it, ms since the epoch."""
    spent_on: str = ""
    """SHA-256 of the public key that it admitted; empty: not used yet."""
    withdrawn: bool = False
    by: str = ""
    reason: str = ""
    at: str = ""


class JoinRequest(Record, frozen=True, kw_only=True):
    """``join/ID/request``: what a node asks for."""

    id: str
    nonce: str
    """Of this very request, so that no older answer is taken for its own."""
    node: str
    ca_fingerprint: str
    request: str
    """PEM of the certificate request."""
    proof: str = ""
    """Signature over id, nonce and request by the key of the token, in base64."""
    hosts: tuple[str, ...] = ()
    storage_addresses: tuple[str, ...] = ()
    sent_ms: int = 0
    """By the node's clock, milliseconds since the epoch."""


class JoinSettings(Struct, frozen=True, kw_only=True):
    """What a node's agent has to know."""

    root: str
    storage_kind: str
    pool: str = ""
    monitors: tuple[str, ...] = ()
    user: str = ""
    """cephx user, without ``client.``."""
    directory: str = ""
    storage_addresses: tuple[str, ...] = ()


class JoinAnswer(Record, frozen=True, kw_only=True):
    """``join/ID/answer``: leased, with the token's lease. ``why`` is empty when the node was admitted."""

    nonce: str
    at_ms: int
    """By the clock of the host that answers, milliseconds since the epoch."""
    why: str = ""
    object: str = ""
    message: str = ""
    hint: str = ""
    certificate: str = ""
    ca: str = ""
    sealed: str = ""
    """The cephx key, which the node's key alone opens; empty: the storage has no users."""
    settings: JoinSettings | None = None


class RevokedSerial(Struct, frozen=True, kw_only=True):
    """A certificate that counts no more. Each CA folder takes it over into its revocation list."""

    serial: str
    user: str
    at: str
    reason: str = ""


class Credential(Record, frozen=True, kw_only=True):
    """``credentials/NODE``: what a node was given, and what of it is to be taken back."""

    node: str
    user: str
    """Of etcd; empty: there is none any more."""
    certificate: str = ""
    key_hash: str = ""
    """SHA-256 of the node's public key."""
    storage_user: str = ""
    """Of this join alone; its key was never given to an earlier one."""
    stale_users: tuple[str, ...] = ()
    """Storage users of earlier joins, to be deleted."""
    hosts: tuple[str, ...] = ()
    storage_addresses: tuple[str, ...] = ()
    token: str = ""
    """Id of the token that it joined by."""
    at: str = ""
    removing: bool = False
    """The node was removed: ``pki serve`` takes everything back, and then says so here."""
    by: str = ""
    reason: str = ""
    revoked: tuple[RevokedSerial, ...] = ()
    """Certificates of this name, oldest first."""
