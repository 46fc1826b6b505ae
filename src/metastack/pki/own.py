"""The certificate that this process shows: whose it is, and what is wrong with it, which etcd does not say."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from .facts import facts_of, user_of
from .files import IdentityFiles, read_certificate, read_identity
from .refusal import Refusal


class OwnCertificate:
    """The certificate's file of a process that runs for long, looked at again and again."""

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._read: tuple[object, x509.Certificate | None, str] = (None, None, "")

    def warning(self) -> str:
        """That it is due, expired or unreadable, in the same words until that changes; empty: all is well."""
        try:
            stat = self._path.stat()
            version: object = (stat.st_ino, stat.st_mtime_ns)
        except OSError as error:
            version = error.strerror
        if version != self._read[0]:
            try:
                self._read = (version, read_certificate(self._path), "")
            except Refusal as error:
                self._read = (version, None, f"its certificate for etcd cannot be used: {error}")
        _, certificate, why = self._read
        if certificate is None or facts_of(certificate, datetime.now(UTC)).state == "valid":
            return why
        end = certificate.not_valid_after_utc
        verb = "expired" if end < datetime.now(UTC) else "expires"
        return f"its certificate for etcd {verb} on {end:%Y-%m-%d}: renew it with `metastack pki renew`"


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
