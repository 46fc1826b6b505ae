"""The certificate that this process shows: whose it is, and what is wrong with it, which etcd does not say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from .facts import user_of
from .files import IdentityFiles, read_certificate, read_identity
from .refusal import Refusal


def own_flaw(ca: str, cert: str, key: str) -> Refusal | None:
    """The first flaw of an identity's files now; None if they are in order, or there are none."""
    if not (ca and cert and key):
        return None
    try:
        read_identity(IdentityFiles(Path(ca), Path(cert), Path(key)), datetime.now(UTC))
    except Refusal as error:
        return error
    return None


def own_user(cert: str) -> str:
    """The etcd user of a certificate's file; the path if it cannot be read."""
    try:
        return user_of(read_certificate(Path(cert))) or cert
    except Refusal:
        return cert
