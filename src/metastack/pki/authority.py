"""The certificate authority: it signs what it was told, and takes nothing but a public key from a request.

Safety: names, hosts and usages of a certificate come from whoever issues it, never from the request. So a node
cannot get a certificate for another node's name or address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID
from msgspec import Struct

from metastack.core.model import valid_name

from .refusal import Refusal, Why
from .subject import LIFE_DAYS, Subject

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey

CA_DAYS: Final = 3650
CLOCK_SLACK: Final = timedelta(minutes=5)
"""A certificate begins this much earlier, for hosts whose clock is behind."""
CRL_DAYS: Final = CA_DAYS
"""Some programs refuse everybody once a revocation list is out of date, so it lives as long as the CA."""
_RSA_BITS: Final = 2048
_CURVES: Final = ("secp256r1", "secp384r1")


@dataclass(frozen=True)
class Authority:
    """A CA with its key."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.certificate)

    @property
    def certificate_pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


class Revoked(Struct, frozen=True, kw_only=True):
    """One certificate that counts no more."""

    serial: str
    user: str
    at: datetime
    reason: str = ""


def fingerprint(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate, 64 hex digits."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def serial_text(number: int) -> str:
    """A serial number as this program writes it: 40 hex digits."""
    return f"{number:040x}"


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key, P-256."""
    return ec.generate_private_key(ec.SECP256R1())


def make_authority(name: str, now: datetime, days: int = CA_DAYS) -> Authority:
    """The cluster's own CA. It signs end certificates only: a path length of 0."""
    if not valid_name(name):
        raise Refusal(Why.BAD_NAME, f"CA {name!r}", "the name is not a DNS label", "use a-z, 0-9 and -")
    key = new_key()
    # A random part in the name: two CAs of one name are told apart by what shows an issuer.
    number = x509.random_serial_number()
    dn = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name} CA {number:x}"[: len(name) + 12])])
    made = (
        x509.CertificateBuilder()
        .subject_name(dn)
        .issuer_name(dn)
        .public_key(key.public_key())
        .serial_number(number)
        .not_valid_before(now - CLOCK_SLACK)
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(ca=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return Authority(made, key)


def adopt_authority(certificate: x509.Certificate, key: PrivateKey, now: datetime) -> Authority:
    """A CA that was given; raises Refusal with what it lacks."""
    what = "the given CA"
    if public_bytes(certificate.public_key()) != public_bytes(key.public_key()):
        raise Refusal(Why.KEY_MISMATCH, what, "its key does not belong to its certificate")
    strong(certificate.public_key(), what)
    try:
        ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
        signs = usage.key_cert_sign and usage.crl_sign
    except x509.ExtensionNotFound:
        ca = signs = False
    if not ca or not signs:
        raise Refusal(
            Why.NOT_A_CA,
            what,
            "may not sign certificates and revocation lists",
            "it needs CA:TRUE and the key usages keyCertSign and cRLSign",
        )
    if certificate.issuer != certificate.subject:
        raise Refusal(
            Why.NOT_A_CA, what, "is an intermediate", "give a self-signed CA of its own to the cluster"
        )
    in_time(certificate, now, what)
    return Authority(certificate, key)


def in_time(certificate: x509.Certificate, now: datetime, what: str) -> None:
    """Raise Refusal if the certificate is not valid now, with the distance: often a clock is wrong."""
    early = int((certificate.not_valid_before_utc - now).total_seconds())
    late = int((now - certificate.not_valid_after_utc).total_seconds())
    if early > 0:
        raise Refusal(
            Why.NOT_YET_VALID, what, f"is valid in {early} s only", "compare this host's clock: `timedatectl`"
        )
    if late > 0:
        raise Refusal(Why.EXPIRED, what, f"expired {late} s ago", "renew it: `metastack pki renew`")


def public_bytes(key: object) -> bytes:
    """A public key as bytes, to compare."""
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def strong(key: object, what: str) -> PublicKey:
    """The key, if etcd and gRPC take it and it is strong; raises Refusal."""
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return key
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= _RSA_BITS:
        return key
    raise Refusal(
        Why.WEAK_KEY, what, "its key is of a kind that is not taken", "use EC P-256, P-384, or RSA of 2048 bits"
    )


def _usage(ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )


def general_name(host: str) -> x509.GeneralName:
    """A host as a certificate names it: an IP address or a DNS name; raises Refusal."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.removesuffix(".").split(".")
    if len(host) > 253 or not all(valid_name(label) for label in labels) or labels[-1].isdecimal():
        raise Refusal(Why.BAD_HOST, f"host {host!r}", "is no IP address and no DNS name")
    return x509.DNSName(host.removesuffix("."))


def sign(
    authority: Authority,
    public: object,
    to: Subject,
    now: datetime,
    *,
    hosts: Sequence[str] = (),
    life: timedelta | None = None,
) -> x509.Certificate:
    """A certificate of ``to`` for this public key. ``hosts``: what clients may call it; raises Refusal.

    It never outlives the CA: a certificate that does fails where nobody looks for the reason.
    """
    if to.serves and not hosts:
        raise Refusal(Why.BAD_HOST, to.user, "others connect to it, and no host is given", "give --host")
    if hosts and not to.serves:
        raise Refusal(Why.BAD_HOST, to.user, "nobody connects to it, and a host is given")
    life = timedelta(days=LIFE_DAYS[to.kind]) if life is None else life
    if life <= timedelta(0):
        raise Refusal(Why.BAD_LIFE, to.user, "a certificate must live longer than 0 s")
    issuer = authority.certificate
    in_time(issuer, now, "the CA")
    # Each host once, also when it is given twice.
    names = list(dict.fromkeys(general_name(host) for host in hosts))
    builder = (
        x509.CertificateBuilder()
        .subject_name(to.x509())
        .issuer_name(issuer.subject)
        .public_key(strong(public, to.user))
        .serial_number(x509.random_serial_number())
        .not_valid_before(max(now - CLOCK_SLACK, issuer.not_valid_before_utc))
        .not_valid_after(min(now + life, issuer.not_valid_after_utc))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(to.usages), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), False)
    )
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return builder.sign(authority.key, hashes.SHA256())


def signed_by(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    """True if that CA signed it, by name and by signature."""
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def revocation_list(authority: Authority, revoked: Sequence[Revoked], now: datetime) -> bytes:
    """The CRL in PEM, as etcd's ``--client-crl-file`` and ``--peer-crl-file`` read it."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - CLOCK_SLACK)
        .next_update(now + timedelta(days=CRL_DAYS))
    )
    for one in revoked:
        entry = x509.RevokedCertificateBuilder(int(one.serial, 16), one.at)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def make_request(to: Subject, key: PrivateKey) -> bytes:
    """A certificate request (CSR) in PEM, made where the key was made."""
    built = x509.CertificateSigningRequestBuilder().subject_name(to.x509()).sign(key, hashes.SHA256())
    return built.public_bytes(serialization.Encoding.PEM)


def read_request(pem: bytes, to: Subject) -> PublicKey:
    """The public key of a CSR whose sender has the private key; raises Refusal.

    The request must name the subject that it is signed for. Everything else in it is ignored.
    """
    what = f"certificate request for {to.user}"
    try:
        request = x509.load_pem_x509_csr(pem)
        signed = request.is_signature_valid
    except Exception:
        raise Refusal(Why.BAD_REQUEST, what, "is not a request in PEM") from None
    if not signed:
        raise Refusal(Why.BAD_REQUEST, what, "is not signed by the key in it")
    said = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if [name.value for name in said] != [to.user]:
        names = ", ".join(str(name.value) for name in said) or "nobody"
        raise Refusal(Why.OTHER_NAME, what, f"names {names}")
    return strong(request.public_key(), what)
