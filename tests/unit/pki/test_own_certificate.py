"""The certificate of a running process: what it warns of, and when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from metastack.agent.report.health import Health, warnings
from metastack.pki.files import write_identity
from metastack.pki.folder import CaFolder
from metastack.pki.own import OwnCertificate, own_flaw, own_user
from metastack.pki.subject import SubjectKind, subject

N1 = subject(SubjectKind.NODE, "n1")
DAY = timedelta(days=1)


class Office:
    """A CA that is older than what it issues, and the files of a node."""

    def __init__(self, folder: Path) -> None:
        self.age, self.folder = 1000 * DAY, folder
        self.ca = CaFolder.make(folder / "ca", "lab", lambda: datetime.now(UTC) - self.age)
        self.age = 0 * DAY

    def renew(self, age: timedelta = timedelta(0)) -> str:
        self.age = age
        made = self.ca.issue(N1, ["n1"], 90 * DAY)
        out = self.folder / "n1"
        return str(write_identity(out, "n1", self.ca.authority.certificate, made.certificate, made.key).cert)


@pytest.fixture
def office(tmp_path: Path) -> Office:
    return Office(tmp_path)


@pytest.mark.parametrize(
    ("age", "said"), [(0 * DAY, ""), (50 * DAY, ""), (70 * DAY, "expires on 20"), (91 * DAY, "expired on 20")]
)
def test_a_warning_comes_in_the_last_third(office: Office, age: timedelta, said: str) -> None:
    warning = OwnCertificate(office.renew(age)).warning()
    assert said in warning
    assert bool(said) is bool(warning)


def test_a_renewal_ends_the_warning(office: Office) -> None:
    own = OwnCertificate(office.renew(80 * DAY))
    assert "expires on" in own.warning()
    office.renew()
    assert own.warning() == ""


def test_an_unreadable_certificate_is_told(office: Office) -> None:
    path = office.renew()
    own = OwnCertificate(path)
    Path(path).unlink()
    assert "cannot be used" in own.warning()
    office.renew()
    assert own.warning() == ""


def test_a_node_publishes_the_warning(office: Office) -> None:
    own = OwnCertificate(office.renew(80 * DAY))
    assert own.warning() in warnings(Health(certificate=own.warning), None, False, True)


def test_the_flaw_and_the_user_are_named(office: Office) -> None:
    cert = office.renew(91 * DAY)
    flaw = own_flaw(str(office.ca.path / "ca.crt"), cert, cert.replace(".crt", ".key"))
    assert flaw is not None
    assert "(node.n1): expired" in str(flaw)
    assert own_flaw("", "", "") is None
    assert (own_user(cert), own_user("/no/such")) == ("node.n1", "/no/such")
