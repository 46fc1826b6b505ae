"""A TLS handshake in memory: OpenSSL, at its strictest, takes what this CA signs, and nothing else."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

import pytest

from metastack.pki.files import IdentityFiles, write_identity
from metastack.pki.folder import CaFolder
from metastack.pki.subject import Subject, SubjectKind, subject

NODE = subject(SubjectKind.NODE, "n1")
ANNA = subject(SubjectKind.OPERATOR, "anna", "viewer")


def now() -> datetime:
    return datetime.now(UTC)


def files(ca: CaFolder, folder: Path, to: Subject, *hosts: str) -> IdentityFiles:
    issued = ca.issue(to, hosts)
    return write_identity(folder, to.user, ca.authority.certificate, issued.certificate, issued.key)


def side(protocol: int, own: IdentityFiles, crl: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.verify_mode = ssl.CERT_REQUIRED
    context.verify_flags |= ssl.VERIFY_X509_STRICT
    context.load_verify_locations(own.ca)
    context.load_cert_chain(own.cert, own.key)
    if crl is not None:
        context.load_verify_locations(crl)
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    return context


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, host: str) -> str:
    """Shake hands; the client's common name as the server sees it. Raises SSLError."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    near = client.wrap_bio(down, up, server_hostname=host)
    far = server.wrap_bio(up, down, server_side=True)
    waiting = [near, far]
    for _ in range(10):
        for end in list(waiting):
            try:
                end.do_handshake()
                waiting.remove(end)
            except ssl.SSLWantReadError:
                pass
    assert not waiting
    certificate = far.getpeercert()
    assert certificate is not None
    parts = {key: value for part in certificate["subject"] for key, value in part}  # type: ignore[union-attr,misc]
    return parts["commonName"]


@pytest.fixture
def ca(tmp_path: Path) -> CaFolder:
    return CaFolder.make(tmp_path / "ca", "prod", now)


@pytest.mark.parametrize("host", ["n1.example.org", "10.0.0.1", "fd00::1"])
def test_an_operator_reaches_a_node(ca: CaFolder, tmp_path: Path, host: str) -> None:
    server = side(ssl.PROTOCOL_TLS_SERVER, files(ca, tmp_path, NODE, "n1.example.org", "10.0.0.1", "fd00::1"))
    client = side(ssl.PROTOCOL_TLS_CLIENT, files(ca, tmp_path, ANNA))
    assert handshake(server, client, host) == "operator.anna"


def test_a_node_has_no_other_name(ca: CaFolder, tmp_path: Path) -> None:
    server = side(ssl.PROTOCOL_TLS_SERVER, files(ca, tmp_path, NODE, "n1.example.org"))
    client = side(ssl.PROTOCOL_TLS_CLIENT, files(ca, tmp_path, ANNA))
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        handshake(server, client, "n2.example.org")


def test_an_operator_cannot_play_a_server(ca: CaFolder, tmp_path: Path) -> None:
    server = side(ssl.PROTOCOL_TLS_SERVER, files(ca, tmp_path, ANNA))
    client = side(ssl.PROTOCOL_TLS_CLIENT, files(ca, tmp_path, NODE, "n1"))
    with pytest.raises(ssl.SSLCertVerificationError, match="purpose"):
        handshake(server, client, "operator.anna")


def test_another_ca_of_the_same_name_is_a_stranger(ca: CaFolder, tmp_path: Path) -> None:
    other = CaFolder.make(tmp_path / "other", "prod", now)
    server = side(ssl.PROTOCOL_TLS_SERVER, files(ca, tmp_path / "a", NODE, "n1"))
    client = side(ssl.PROTOCOL_TLS_CLIENT, files(other, tmp_path / "b", ANNA))
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(server, client, "n1")


def test_the_revocation_list_shuts_a_client_out(ca: CaFolder, tmp_path: Path) -> None:
    node, anna = files(ca, tmp_path, NODE, "n1"), files(ca, tmp_path, ANNA)
    client = side(ssl.PROTOCOL_TLS_CLIENT, anna)
    assert handshake(side(ssl.PROTOCOL_TLS_SERVER, node, ca.crl), client, "n1") == "operator.anna"
    ca.revoke("operator.anna")
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        handshake(side(ssl.PROTOCOL_TLS_SERVER, node, ca.crl), client, "n1")
