"""The CA's folder and the files of an identity."""

from __future__ import annotations

import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from metastack.pki.authority import make_authority, new_key
from metastack.pki.facts import facts_of, hosts_of, user_of
from metastack.pki.files import read_identity, write, write_identity
from metastack.pki.folder import CaFolder
from metastack.pki.refusal import Refusal, Why
from metastack.pki.subject import SubjectKind, subject

NODE = subject(SubjectKind.NODE, "n1")
ROOT = subject(SubjectKind.ROOT)
ANNA = subject(SubjectKind.OPERATOR, "anna", "admin")
NOW = datetime(2026, 11, 29, 12, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def ca(tmp_path: Path, clock: Clock) -> CaFolder:
    return CaFolder.make(tmp_path / "ca", "prod", clock)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_modes_are_tight(ca: CaFolder) -> None:
    assert mode(ca.path) == mode(ca.path / "issued") == 0o700
    assert mode(ca.path / "ca.key") == 0o600
    assert mode(ca.path / "ca.crt") == mode(ca.crl) == 0o644


def test_a_folder_holds_one_ca(ca: CaFolder, clock: Clock) -> None:
    before = (ca.path / "ca.key").read_bytes()
    with pytest.raises(Refusal) as refused:
        CaFolder.make(ca.path, "prod", clock)
    assert refused.value.why is Why.EXISTS
    assert (ca.path / "ca.key").read_bytes() == before


def test_a_given_ca_is_copied(tmp_path: Path, ca: CaFolder, clock: Clock) -> None:
    again = CaFolder.adopt(tmp_path / "two", ca.path / "ca.crt", ca.path / "ca.key", clock)
    assert again.authority.fingerprint == ca.authority.fingerprint


def test_an_identity_is_written_and_read(tmp_path: Path, ca: CaFolder) -> None:
    issued = ca.issue(NODE, ("n1", "10.0.0.1"))
    files = write_identity(tmp_path / "pki", "node", ca.authority.certificate, issued.certificate, issued.key)
    assert [mode(files.key), mode(files.cert), mode(files.ca)] == [0o600, 0o644, 0o644]
    assert user_of(read_identity(files, NOW).certificate) == "node.n1"
    assert sorted(path.name for path in files.key.parent.iterdir()) == ["ca.crt", "node.crt", "node.key"]


def test_each_flaw_of_an_identity_has_its_name(tmp_path: Path, ca: CaFolder) -> None:
    issued = ca.issue(NODE, ("n1",))
    root = ca.authority.certificate

    def why(
        ca_cert: x509.Certificate = root, days: int = 0, key: object = issued.key, bits: int = 0o600
    ) -> Why:
        files = write_identity(tmp_path / "pki", "node", ca_cert, issued.certificate, key or issued.key)  # type: ignore
        files.key.chmod(bits)
        with pytest.raises(Refusal) as refused:
            read_identity(files, NOW + timedelta(days=days))
        return refused.value.why

    assert why(make_authority("prod", NOW).certificate) is Why.OTHER_CA
    assert why(days=400) is Why.EXPIRED
    assert why(days=-1) is Why.NOT_YET_VALID
    assert why(key=new_key()) is Why.KEY_MISMATCH
    assert why(bits=0o640) is Why.OPEN_TO_OTHERS


def test_a_missing_file_and_rubbish_have_their_names(tmp_path: Path, ca: CaFolder) -> None:
    issued = ca.issue(NODE, ("n1",))
    files = write_identity(tmp_path, "node", ca.authority.certificate, issued.certificate, issued.key)
    write(files.key, b"rubbish", 0o600)
    with pytest.raises(Refusal) as refused:
        read_identity(files, NOW)
    assert refused.value.why is Why.NOT_PEM
    files.cert.unlink()
    with pytest.raises(Refusal) as refused:
        read_identity(files, NOW)
    assert refused.value.why is Why.NOT_READABLE


def test_renewing_changes_the_key_and_keeps_the_rest(ca: CaFolder, clock: Clock) -> None:
    old = ca.issue(NODE, ("n1", "10.0.0.1"))
    clock.now += timedelta(days=300)
    new = ca.renew(old.certificate)
    assert user_of(new.certificate) == "node.n1"
    assert hosts_of(new.certificate) == ["n1", "10.0.0.1"]
    assert new.certificate.public_key() != old.certificate.public_key()
    assert [one.state for one in ca.list()] == ["due", "valid"]


def test_the_role_survives_a_renewal(ca: CaFolder) -> None:
    assert facts_of(ca.renew(ca.issue(ANNA).certificate).certificate, NOW).role == "admin"


def test_a_strangers_certificate_is_not_renewed(tmp_path: Path, ca: CaFolder, clock: Clock) -> None:
    other = CaFolder.make(tmp_path / "other", "prod", clock)
    with pytest.raises(Refusal) as refused:
        ca.renew(other.issue(ANNA).certificate)
    assert refused.value.why is Why.OTHER_CA


def test_revoking_a_user_revokes_all_its_certificates(ca: CaFolder) -> None:
    first, second, other = ca.issue(ANNA), ca.issue(ANNA), ca.issue(NODE, ("n1",))
    assert [one.state for one in ca.revoke("operator.anna", "left")] == ["revoked", "revoked"]
    crl = x509.load_pem_x509_crl(ca.crl.read_bytes())
    listed = {one.serial_number for one in crl}
    assert listed == {first.certificate.serial_number, second.certificate.serial_number}
    assert [one.reason for one in ca.revoked()] == ["left", "left"]
    assert {one.user: one.state for one in ca.list()} == {"node.n1": "valid", "operator.anna": "revoked"}
    assert other.certificate.serial_number not in listed
    with pytest.raises(Refusal) as refused:
        ca.renew(first.certificate)
    assert refused.value.why is Why.REVOKED


def test_one_certificate_is_revoked_by_serial_or_fingerprint(ca: CaFolder) -> None:
    first, second = facts_of(ca.issue(ANNA).certificate, NOW), facts_of(ca.issue(ANNA).certificate, NOW)
    assert [one.serial for one in ca.revoke(first.serial)] == [first.serial]
    assert [one.serial for one in ca.revoke(second.fingerprint)] == [second.serial]
    assert len(ca.revoked()) == 2


def test_revoking_twice_keeps_the_first(ca: CaFolder, clock: Clock) -> None:
    ca.issue(ANNA)
    ca.revoke("operator.anna", "left")
    before = ca.revoked()
    clock.now += timedelta(days=1)
    ca.revoke("operator.anna", "again")
    assert ca.revoked() == before


def test_an_unknown_name_is_refused(ca: CaFolder) -> None:
    with pytest.raises(Refusal) as refused:
        ca.revoke("operator.bob")
    assert refused.value.why is Why.UNKNOWN


def test_an_unreadable_record_brings_nobody_back(ca: CaFolder) -> None:
    ca.issue(ANNA)
    ca.revoke("operator.anna")
    (ca.path / "revoked.json").write_text("{")
    before = ca.crl.read_bytes()
    with pytest.raises(Refusal) as refused:
        ca.revoke("operator.anna")
    assert refused.value.why is Why.NOT_READABLE
    assert ca.crl.read_bytes() == before


def test_a_ca_that_was_half_made_is_made(tmp_path: Path, ca: CaFolder, clock: Clock) -> None:
    half = tmp_path / "half"
    half.mkdir()
    write(half / "ca.key", (ca.path / "ca.key").read_bytes(), 0o600)
    assert CaFolder.make(half, "lab", clock).issue(ROOT)


def test_a_ca_without_its_certificate_is_left_alone(ca: CaFolder, clock: Clock) -> None:
    ca.issue(ROOT)
    (ca.path / "ca.crt").unlink()
    with pytest.raises(Refusal) as refused:
        CaFolder.make(ca.path, "lab", clock)
    assert refused.value.why is Why.EXISTS


def test_the_own_identity_is_kept_until_due(ca: CaFolder, clock: Clock) -> None:
    first = read_identity(ca.own(ROOT), clock())
    assert read_identity(ca.own(ROOT), clock()).certificate == first.certificate
    clock.now += timedelta(days=300)
    assert read_identity(ca.own(ROOT), clock()).certificate != first.certificate


@pytest.mark.parametrize("name", ["root.key", "root.crt", "ca.crt"])
def test_half_an_identity_of_its_own_is_replaced(ca: CaFolder, clock: Clock, name: str) -> None:
    folder = ca.own(ROOT).key.parent
    (folder / name).unlink()
    assert read_identity(ca.own(ROOT), clock())
