"""What a certificate says, and how long it is still good for."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Final

from cryptography import x509
from cryptography.x509.oid import NameOID
from msgspec import Struct

from .authority import fingerprint, serial_text
from .subject import Subject, parse

RENEW_SHARE: Final = 1 / 3
"""A certificate is due when less than this share of its life is left."""


class CertificateFacts(Struct, frozen=True, kw_only=True):
    """One certificate for people and for `doctor`."""

    user: str
    role: str
    serial: str
    fingerprint: str
    hosts: list[str]
    not_before: datetime
    not_after: datetime
    left_s: int
    """Seconds until it expires; below 0 once it has."""
    state: str
    """``valid``, ``due`` (renew it), ``expired``, ``early`` (not valid yet) or ``revoked``."""


def _one(name: x509.Name, oid: x509.ObjectIdentifier) -> str:
    found = name.get_attributes_for_oid(oid)
    return str(found[0].value) if len(found) == 1 else ""


def user_of(certificate: x509.Certificate) -> str:
    """The etcd user that a certificate stands for; empty if it names none or several."""
    return _one(certificate.subject, NameOID.COMMON_NAME)


def subject_of(certificate: x509.Certificate) -> Subject | None:
    """The subject that this program issued it for; None if it did not."""
    role = _one(certificate.subject, NameOID.ORGANIZATIONAL_UNIT_NAME)
    return parse(user_of(certificate), role)


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """Hosts that clients may call its holder."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]


def facts_of(certificate: x509.Certificate, now: datetime, revoked: Collection[str] = ()) -> CertificateFacts:
    """What it says, judged at a moment. ``revoked``: serials."""
    begin, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    serial, left_s = serial_text(certificate.serial_number), int((end - now).total_seconds())
    if serial in revoked:
        state = "revoked"
    elif left_s < 0:
        state = "expired"
    elif begin > now:
        state = "early"
    else:
        state = "due" if left_s < (end - begin).total_seconds() * RENEW_SHARE else "valid"
    return CertificateFacts(
        user=user_of(certificate),
        role=_one(certificate.subject, NameOID.ORGANIZATIONAL_UNIT_NAME),
        serial=serial,
        fingerprint=fingerprint(certificate),
        hosts=hosts_of(certificate),
        not_before=begin,
        not_after=end,
        left_s=left_s,
        state=state,
    )
