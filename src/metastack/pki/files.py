"""PEM files with their modes: a key is readable by its owner alone, or it is not read."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from .atomic_file import write as write
from .authority import PrivateKey, fingerprint, in_time, public_bytes, signed_by
from .facts import user_of
from .refusal import Refusal, Why

SECRET_MODE: Final = 0o600
PUBLIC_MODE: Final = 0o644
FOLDER_MODE: Final = 0o700
CA_FILE: Final = "ca.crt"
"""Name of the CA's certificate in every folder of an identity."""


@dataclass(frozen=True)
class IdentityFiles:
    """Where an identity's three files are: what ``StoreSettings`` calls ca, cert and key."""

    ca: Path
    cert: Path
    key: Path


@dataclass(frozen=True)
class Identity:
    """An identity as read: the CA, the certificate and its key."""

    ca: x509.Certificate
    certificate: x509.Certificate
    key: PrivateKey


def read(path: Path, *, secret: bool = False) -> bytes:
    """A file's content; raises Refusal, also for a secret that others may read or write."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if secret and mode & 0o077:
                raise Refusal(
                    Why.OPEN_TO_OTHERS,
                    str(path),
                    f"others may read or change this key (mode {mode:04o})",
                    f"`chmod 600 {path}`; if others have read it, renew and revoke the certificate",
                )
            return file.read()
    except OSError as error:
        raise Refusal(Why.NOT_READABLE, str(path), f"cannot be read: {error.strerror}") from None


def certificate_pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def key_pem(key: PrivateKey) -> bytes:
    """A private key as PKCS #8, which etcd, gRPC and rsyslog all read."""
    form = serialization.PrivateFormat.PKCS8
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def load_certificate(pem: bytes, what: str) -> x509.Certificate:
    """One certificate; raises Refusal."""
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError:
        raise Refusal(Why.NOT_PEM, what, "is not a certificate in PEM") from None


def load_key(pem: bytes, what: str) -> PrivateKey:
    """One private key without a passphrase; raises Refusal."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        raise Refusal(
            Why.NOT_PEM, what, "is not a private key in PEM, or it has a passphrase", "remove the passphrase"
        ) from None
    if not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
        raise Refusal(Why.WEAK_KEY, what, "is of a kind that is not taken", "use EC P-256, P-384, or RSA")
    return key


def read_certificate(path: Path) -> x509.Certificate:
    return load_certificate(read(path), str(path))


def read_key(path: Path) -> PrivateKey:
    return load_key(read(path, secret=True), str(path))


def write_identity(
    folder: Path, name: str, ca: x509.Certificate, certificate: x509.Certificate, key: PrivateKey | None
) -> IdentityFiles:
    """``NAME.crt``, ``NAME.key`` and ``ca.crt`` in a folder. ``key`` None: the key on disk is the one.

    The key comes first: a certificate without its key is useless, a key without its certificate harmless.
    """
    folder.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    files = IdentityFiles(folder / CA_FILE, folder / f"{name}.crt", folder / f"{name}.key")
    if key is not None:
        write(files.key, key_pem(key), SECRET_MODE)
    write(files.cert, certificate_pem(certificate), PUBLIC_MODE)
    write(files.ca, certificate_pem(ca), PUBLIC_MODE)
    return files


def read_identity(files: IdentityFiles, now: datetime) -> Identity:
    """An identity whose parts fit each other and are valid now; raises Refusal."""
    ca, certificate, key = read_certificate(files.ca), read_certificate(files.cert), read_key(files.key)
    if public_bytes(certificate.public_key()) != public_bytes(key.public_key()):
        raise Refusal(Why.KEY_MISMATCH, str(files.key), f"does not belong to {files.cert}")
    if not signed_by(certificate, ca):
        raise Refusal(
            Why.OTHER_CA,
            str(files.cert),
            f"is not signed by the CA {fingerprint(ca)[:16]} in {files.ca}",
            "join with a token of this cluster",
        )
    in_time(ca, now, str(files.ca))
    in_time(certificate, now, f"{files.cert} ({user_of(certificate)})")
    return Identity(ca, certificate, key)
