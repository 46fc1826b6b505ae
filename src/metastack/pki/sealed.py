"""A secret that only the holder of one private key can open.

A key is agreed on between a new EC key and the receiver's (ECDH), HKDF makes an AES-256 key of it, and AES-GCM
encrypts. ``about`` is bound to it: what was sealed for one node and moment cannot be given out as another's.
"""

from __future__ import annotations

import base64
import binascii
import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from .refusal import Refusal, Why

_INFO: Final = b"metastack sealed 1"
_NONCE: Final = 12


def seal(secret: bytes, receiver: ec.EllipticCurvePublicKey, about: str) -> str:
    """The secret as text."""
    own = ec.generate_private_key(receiver.curve)
    form = (serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint)
    point, nonce = own.public_key().public_bytes(*form), os.urandom(_NONCE)
    body = AESGCM(_key(own, receiver)).encrypt(nonce, secret, about.encode())
    return ".".join(base64.b64encode(part).decode() for part in (point, nonce, body))


def unseal(text: str, receiver: ec.EllipticCurvePrivateKey, about: str) -> bytes:
    """The secret; raises Refusal for one that was sealed for another key or purpose, or changed."""
    try:
        point, nonce, body = (base64.b64decode(part, validate=True) for part in text.split("."))
        sender = ec.EllipticCurvePublicKey.from_encoded_point(receiver.curve, point)
        return AESGCM(_key(receiver, sender)).decrypt(nonce, body, about.encode())
    except (ValueError, binascii.Error, InvalidTag):
        raise Refusal(Why.KEY_MISMATCH, about, "its secret was sealed for another key") from None


def _key(own: ec.EllipticCurvePrivateKey, other: ec.EllipticCurvePublicKey) -> bytes:
    shared = own.exchange(ec.ECDH(), other)
    return HKDF(hashes.SHA256(), 32, salt=None, info=_INFO).derive(shared)
