"""Certificates: what is signed, what is refused, and what a certificate says."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from metastack.pki.authority import (
    CLOCK_SLACK,
    Authority,
    adopt_authority,
    make_authority,
    make_request,
    new_key,
    read_request,
    revocation_list,
    sign,
    signed_by,
)
from metastack.pki.facts import facts_of, hosts_of, subject_of, user_of
from metastack.pki.refusal import Refusal, Why
from metastack.pki.subject import Subject, SubjectKind, parse, subject

NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)
NODE = subject(SubjectKind.NODE, "n1")
ANNA = subject(SubjectKind.OPERATOR, "anna", "viewer")
PKI = subject(SubjectKind.SERVICE, "pki")
MEMBER = subject(SubjectKind.ETCD, "e1")
ROOT = subject(SubjectKind.ROOT)


@pytest.fixture(scope="module")
def ca() -> Authority:
    return make_authority("prod", NOW)


def issued(ca: Authority, to: Subject = NODE, *hosts: str, now: datetime = NOW) -> x509.Certificate:
    return sign(ca, new_key().public_key(), to, now, hosts=hosts or (("n1",) if to.serves else ()))


def why(refused: pytest.ExceptionInfo[Refusal]) -> Why:
    return refused.value.why


@pytest.mark.parametrize(
    ("to", "user"),
    [
        (NODE, "node.n1"),
        (ANNA, "operator.anna"),
        (PKI, "service.pki"),
        (MEMBER, "etcd.e1"),
        (ROOT, "root"),
        (subject(SubjectKind.JOIN, "a1b2"), "join.a1b2"),
    ],
)
def test_common_name_is_the_etcd_user(ca: Authority, to: Subject, user: str) -> None:
    made = issued(ca, to)
    assert user_of(made) == to.user == user
    assert subject_of(made) == to == parse(user, to.role)


@pytest.mark.parametrize("user", ["", "root.x", "node.", "node.a.b", "node.N1", "pig.n1", "nodes.n1", "root "])
def test_other_common_names_are_no_subject(user: str) -> None:
    assert parse(user) is None


@pytest.mark.parametrize(
    ("to", "serves"), [(NODE, True), (PKI, True), (MEMBER, True), (ANNA, False), (ROOT, False)]
)
def test_only_what_others_connect_to_may_serve(ca: Authority, to: Subject, serves: bool) -> None:
    usages = list(issued(ca, to).extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    assert ExtendedKeyUsageOID.CLIENT_AUTH in usages
    assert (ExtendedKeyUsageOID.SERVER_AUTH in usages) is serves


def test_hosts_are_names_and_addresses(ca: Authority) -> None:
    hosts = ("n1.example.org", "10.0.0.1", "fd00::1", "10.0.0.1")
    assert hosts_of(issued(ca, NODE, *hosts)) == ["n1.example.org", "10.0.0.1", "fd00::1"]


@pytest.mark.parametrize("host", ["", "a b", "*.example.org", "10.0.0.256", "n1:2379", "-x", "https://n1"])
def test_a_wrong_host_is_refused(ca: Authority, host: str) -> None:
    with pytest.raises(Refusal) as refused:
        issued(ca, NODE, host)
    assert why(refused) is Why.BAD_HOST


def test_a_node_needs_a_host_and_an_operator_has_none(ca: Authority) -> None:
    for to, hosts in ((NODE, ()), (ANNA, ("n1",))):
        with pytest.raises(Refusal) as refused:
            sign(ca, new_key().public_key(), to, NOW, hosts=hosts)
        assert why(refused) is Why.BAD_HOST


@pytest.mark.parametrize(
    ("kind", "name", "role"),
    [
        (SubjectKind.NODE, "n1.example", ""),
        (SubjectKind.NODE, "", ""),
        (SubjectKind.NODE, "n1", "admin"),
        (SubjectKind.OPERATOR, "anna", ""),
        (SubjectKind.OPERATOR, "anna", "god"),
        (SubjectKind.SERVICE, "coffee", ""),
    ],
)
def test_a_subject_without_meaning_is_refused(kind: SubjectKind, name: str, role: str) -> None:
    with pytest.raises(Refusal) as refused:
        subject(kind, name, role)
    assert why(refused) is Why.BAD_NAME


def test_a_certificate_begins_early_for_slow_clocks(ca: Authority) -> None:
    later = NOW + timedelta(days=1)
    assert issued(ca, now=later).not_valid_before_utc == later - CLOCK_SLACK


def test_no_certificate_outlives_the_ca() -> None:
    short = make_authority("prod", NOW, days=10)
    assert issued(short).not_valid_after_utc == short.certificate.not_valid_after_utc


def test_an_expired_ca_signs_nothing() -> None:
    with pytest.raises(Refusal) as refused:
        issued(make_authority("prod", NOW - timedelta(days=20), days=10))
    assert why(refused) is Why.EXPIRED


def test_a_request_keeps_the_key_where_it_was_made(ca: Authority) -> None:
    key = new_key()
    public = read_request(make_request(NODE, key), NODE)
    assert signed_by(sign(ca, public, NODE, NOW, hosts=("n1",)), ca.certificate)
    assert public.public_numbers() == key.public_key().public_numbers()


def test_a_request_for_another_name_is_refused() -> None:
    with pytest.raises(Refusal) as refused:
        read_request(make_request(subject(SubjectKind.NODE, "n2"), new_key()), NODE)
    assert why(refused) is Why.OTHER_NAME
    assert "names node.n2" in str(refused.value)


def test_hosts_in_a_request_are_ignored(ca: Authority) -> None:
    wanted = x509.SubjectAlternativeName([x509.DNSName("n2")])
    key = new_key()
    from cryptography.hazmat.primitives import hashes, serialization

    built = x509.CertificateSigningRequestBuilder().subject_name(NODE.x509()).add_extension(wanted, False)
    pem = built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    assert hosts_of(sign(ca, read_request(pem, NODE), NODE, NOW, hosts=("n1",))) == ["n1"]


@pytest.mark.parametrize(
    "pem", [b"", b"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n"]
)
def test_rubbish_is_no_request(pem: bytes) -> None:
    with pytest.raises(Refusal) as refused:
        read_request(pem, NODE)
    assert why(refused) is Why.BAD_REQUEST


@pytest.mark.parametrize(
    "key",
    [ed25519.Ed25519PrivateKey.generate(), ec.generate_private_key(ec.SECP256K1())],
    ids=["ed25519", "another curve"],
)
def test_keys_that_etcd_would_not_take_are_refused(ca: Authority, key: object) -> None:
    with pytest.raises(Refusal) as refused:
        sign(ca, key.public_key(), ANNA, NOW)  # type: ignore[attr-defined]
    assert why(refused) is Why.WEAK_KEY


def test_a_given_rsa_ca_is_taken() -> None:
    key = rsa.generate_private_key(65537, 2048)
    given = rsa_ca(key)
    assert signed_by(issued(adopt_authority(given, key, NOW)), given)


def rsa_ca(key: rsa.RSAPrivateKey, ca: bool = True, issuer: str = "corp") -> x509.Certificate:
    from cryptography.hazmat.primitives import hashes

    from metastack.pki.authority import _usage

    def dn(name: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    builder = x509.CertificateBuilder().subject_name(dn("corp")).issuer_name(dn(issuer))
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(NOW).not_valid_after(NOW + timedelta(days=9))
    builder = builder.add_extension(x509.BasicConstraints(ca, None), True).add_extension(_usage(ca), True)
    return builder.sign(key, hashes.SHA256())


def test_a_given_ca_that_is_none_is_refused() -> None:
    key = rsa.generate_private_key(65537, 2048)
    for given, code in ((rsa_ca(key, ca=False), Why.NOT_A_CA), (rsa_ca(key, issuer="above"), Why.NOT_A_CA)):
        with pytest.raises(Refusal) as refused:
            adopt_authority(given, key, NOW)
        assert why(refused) is code
    with pytest.raises(Refusal) as refused:
        adopt_authority(rsa_ca(key), new_key(), NOW)
    assert why(refused) is Why.KEY_MISMATCH


def test_another_ca_of_the_same_name_did_not_sign(ca: Authority) -> None:
    assert signed_by(issued(ca), ca.certificate)
    assert not signed_by(issued(ca), make_authority("prod", NOW).certificate)


@pytest.mark.parametrize(
    ("days", "state"),
    [(-1, "early"), (0, "valid"), (240, "valid"), (250, "due"), (364, "due"), (366, "expired")],
)
def test_state_goes_by_the_moment(ca: Authority, days: int, state: str) -> None:
    facts = facts_of(issued(ca), NOW + timedelta(days=days))
    assert facts.state == state
    assert facts.left_s == (365 - days) * 86400


def test_a_revoked_certificate_is_in_the_list_and_says_so(ca: Authority) -> None:
    from metastack.pki.authority import Revoked

    made = issued(ca)
    serial = facts_of(made, NOW).serial
    assert facts_of(made, NOW, {serial}).state == "revoked"
    pem = revocation_list(ca, [Revoked(serial=serial, user="node.n1", at=NOW)], NOW)
    crl = x509.load_pem_x509_crl(pem)
    assert crl.is_signature_valid(ca.certificate.public_key())  # type: ignore[arg-type]
    assert crl.get_revoked_certificate_by_serial_number(made.serial_number) is not None
    assert crl.get_revoked_certificate_by_serial_number(issued(ca).serial_number) is None


def test_openssl_takes_the_ca(ca: Authority) -> None:
    context = ssl.create_default_context(cadata=ca.certificate_pem.decode())
    assert context.cert_store_stats()["x509_ca"] >= 1


@pytest.mark.parametrize(
    ("to", "roles"),
    [
        (NODE, ("node", "fencer", "node.n1")),
        (ANNA, ("viewer",)),
        (subject(SubjectKind.OPERATOR, "bob", "admin"), ("viewer", "operator", "admin")),
        (PKI, ("root",)),
        (subject(SubjectKind.SERVICE, "web-1", "web"), ("viewer", "operator", "admin")),
        (subject(SubjectKind.JOIN, "a1"), ("join.a1",)),
        (MEMBER, ()),
        (ROOT, ("root",)),
    ],
)
def test_a_user_gets_the_roles_of_its_kind(to: Subject, roles: tuple[str, ...]) -> None:
    assert to.etcd_roles() == roles
