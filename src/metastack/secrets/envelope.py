"""The envelope: a secret's value under a data key of its own, and the data key under a key of the keyring.

Owns: what is encrypted, and what each ciphertext is bound to. Refuses: files and etcd.
Rule: the key's id and the secret's etcd key are associated data of both ciphertexts. So none of them opens
under another name or another id, and a record made of two others does not open.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ..core.model import Secret
from .keyring import ClusterKey, Keyring

MAX_BYTES: Final = 64 * 1024
"""Largest value: etcd holds each in memory, and sends each to every node."""
_KEY, _NONCE, _TAG = 32, 12, 16
_DATA_KEY: Final = _NONCE + _KEY + _TAG
OVERHEAD: Final = _NONCE + _TAG
"""Bytes that a ciphertext is longer than its value."""


class Unopened(ValueError):
    """A secret that cannot be opened; the message has no part of it."""


class NoKey(Unopened):
    """The keyring lacks the key that it is encrypted under."""

    def __init__(self, key_id: str) -> None:
        super().__init__(f"it is encrypted under key {key_id[:16]!r}, which the keyring lacks")


def seal(keyring: Keyring, where: str, value: bytes) -> Secret:
    """Encrypt under the newest key; ``where`` is the secret's etcd key. Raises ValueError for a bad size."""
    if not 0 < len(value) <= MAX_BYTES:
        raise ValueError(f"a secret has 1 to {MAX_BYTES} bytes, this one {len(value)}")
    key, data_key = keyring.newest, AESGCM.generate_key(256)
    return Secret(
        key_id=key.id,
        data_key=_encrypt(key.key, data_key, _bound("data key", key.id, where)),
        value=_encrypt(data_key, value, _bound("value", key.id, where)),
    )


def unseal(keyring: Keyring, where: str, secret: Secret) -> bytes:
    """The value of the secret at that etcd key; raises :class:`Unopened`."""
    if len(secret.data_key) != _DATA_KEY or not OVERHEAD < len(secret.value) <= MAX_BYTES + OVERHEAD:
        raise Unopened("it is damaged: its ciphertext has the wrong length")
    key: ClusterKey | None = keyring.get(secret.key_id)
    if key is None:
        raise NoKey(secret.key_id)
    try:
        data_key = _decrypt(key.key, secret.data_key, _bound("data key", key.id, where))
        return _decrypt(data_key, secret.value, _bound("value", key.id, where))
    except InvalidTag:
        raise Unopened("it is damaged, or was written for another name") from None


def _bound(part: str, key_id: str, where: str) -> bytes:
    """Associated data: none of the three can contain the separator."""
    return "\0".join(("metastack secret", part, key_id, where)).encode()


def _encrypt(key: bytes, value: bytes, bound: bytes) -> bytes:
    nonce = os.urandom(_NONCE)
    return nonce + AESGCM(key).encrypt(nonce, value, bound)


def _decrypt(key: bytes, sealed: bytes, bound: bytes) -> bytes:
    return AESGCM(key).decrypt(sealed[:_NONCE], sealed[_NONCE:], bound)
