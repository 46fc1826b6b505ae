"""The CA's folder on a management host: its key, what it issued, and what it revoked.

Owns: ``ca.crt``, ``ca.key``, ``ca.crl``, ``revoked.json``, ``issued/SERIAL.crt``. Refuses: a private key of
anybody else; those are written where their holder is.
Rule: one lock a change. A certificate is on record before it is handed out, so that it can be revoked.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import msgspec
from cryptography import x509

from .authority import (
    CA_DAYS,
    Authority,
    PrivateKey,
    Revoked,
    adopt_authority,
    fingerprint,
    make_authority,
    new_key,
    public_bytes,
    revocation_list,
    serial_text,
    sign,
    signed_by,
)
from .facts import CertificateFacts, facts_of, hosts_of, subject_of, user_of
from .files import (
    CA_FILE,
    FOLDER_MODE,
    PUBLIC_MODE,
    SECRET_MODE,
    IdentityFiles,
    certificate_pem,
    key_pem,
    read,
    read_certificate,
    read_identity,
    read_key,
    write,
    write_identity,
)
from .refusal import Refusal, Why
from .subject import Subject

KEY_FILE: Final = "ca.key"
CRL_FILE: Final = "ca.crl"
_REVOKED_FILE: Final = "revoked.json"
_ISSUED: Final = "issued"


class _RevokedFile(msgspec.Struct, kw_only=True):
    v: int = 1
    revoked: list[Revoked] = []


@dataclass(frozen=True)
class Issued:
    """A certificate, and the key that was made for it; None: its holder made the key."""

    certificate: x509.Certificate
    key: PrivateKey | None = None


class CaFolder:
    """A CA's folder. ``clock`` says the moment, in UTC."""

    def __init__(self, path: Path, clock: Callable[[], datetime]) -> None:
        self.path = path
        self._clock = clock
        self.authority = Authority(read_certificate(path / CA_FILE), read_key(path / KEY_FILE))

    @staticmethod
    def make(path: Path, name: str, clock: Callable[[], datetime], days: int = CA_DAYS) -> CaFolder:
        """Make a CA in a new or empty folder; raises Refusal."""
        return CaFolder._begin(path, lambda: make_authority(name, clock(), days), clock)

    @staticmethod
    def adopt(path: Path, certificate: Path, key: Path, clock: Callable[[], datetime]) -> CaFolder:
        """Use a CA that was given; raises Refusal."""
        return CaFolder._begin(
            path, lambda: adopt_authority(read_certificate(certificate), read_key(key), clock()), clock
        )

    @staticmethod
    def _begin(path: Path, build: Callable[[], Authority], clock: Callable[[], datetime]) -> CaFolder:
        try:
            path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            with _locked(path):
                # The certificate is written last: a key without one that signed nothing was never a CA.
                signed = (path / KEY_FILE).exists() and any((path / _ISSUED).glob("*.crt"))
                if (path / CA_FILE).exists() or signed:
                    raise Refusal(Why.EXISTS, f"CA {path}", "exists already", "name another folder")
                authority = build()
                (path / _ISSUED).mkdir(mode=FOLDER_MODE, exist_ok=True)
                write(path / KEY_FILE, key_pem(authority.key), SECRET_MODE)
                write(path / CRL_FILE, revocation_list(authority, [], clock()), PUBLIC_MODE)
                write(path / CA_FILE, authority.certificate_pem, PUBLIC_MODE)
        except OSError as error:
            raise _cannot_write(path, error) from None
        return CaFolder(path, clock)

    def own(self, to: Subject) -> IdentityFiles:
        """An identity that this host itself uses, in the folder; made, or renewed when it is due."""
        folder = self.path / to.user
        files = IdentityFiles(folder / CA_FILE, folder / f"{to.user}.crt", folder / f"{to.user}.key")
        try:
            found = read_identity(files, self._clock())
        except Refusal:
            pass  # it is not there, half written or expired
        else:
            known = found.ca == self.authority.certificate
            if known and facts_of(found.certificate, self._clock(), self._serials()).state == "valid":
                return files
        made = self.issue(to)
        try:
            return write_identity(folder, to.user, self.authority.certificate, made.certificate, made.key)
        except OSError as error:
            raise _cannot_write(self.path, error) from None

    @property
    def crl(self) -> Path:
        """The revocation list that etcd's members are given."""
        return self.path / CRL_FILE

    def issue(self, to: Subject, hosts: Sequence[str] = (), life: timedelta | None = None) -> Issued:
        """Make a key and a certificate; raises Refusal."""
        key = new_key()
        return Issued(self.sign(key.public_key(), to, hosts, life), key)

    def sign(
        self, public: object, to: Subject, hosts: Sequence[str] = (), life: timedelta | None = None
    ) -> x509.Certificate:
        """A certificate for a key that was made elsewhere; raises Refusal."""
        made = sign(self.authority, public, to, self._clock(), hosts=hosts, life=life)
        try:
            with _locked(self.path):
                folder = self.path / _ISSUED
                folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
                write(folder / f"{serial_text(made.serial_number)}.crt", certificate_pem(made), PUBLIC_MODE)
        except OSError as error:
            raise _cannot_write(self.path, error) from None
        return made

    def signed_for(self, to: Subject, public: object, hosts: Sequence[str]) -> x509.Certificate | None:
        """A certificate that was issued for that key and these hosts already, and still holds."""
        now, serials = self._clock(), self._serials()
        for one in self._issued():
            if user_of(one) != to.user or public_bytes(one.public_key()) != public_bytes(public):
                continue
            facts = facts_of(one, now, serials)
            if facts.state == "valid" and sorted(facts.hosts) == sorted(hosts):
                return one
        return None

    def take_over(self, revoked: Sequence[Revoked]) -> bool:
        """Add revocations that another host recorded, and write the revocation list; False: all were known."""
        try:
            with _locked(self.path):
                known = self.revoked()
                serials = {one.serial for one in known}
                new = [one for one in revoked if one.serial not in serials]
                if new:
                    self._write_revoked([*known, *new])
        except OSError as error:
            raise _cannot_write(self.path, error) from None
        return bool(new)

    def _write_revoked(self, revoked: Sequence[Revoked]) -> None:
        data = msgspec.json.format(msgspec.json.encode(_RevokedFile(revoked=list(revoked))))
        write(self.path / _REVOKED_FILE, data, PUBLIC_MODE)
        write(self.crl, revocation_list(self.authority, revoked, self._clock()), PUBLIC_MODE)

    def renew(self, certificate: x509.Certificate, life: timedelta | None = None) -> Issued:
        """A new key and certificate for the same subject and hosts; raises Refusal for one that is revoked.

        The old one stays valid until its end or until it is revoked: its holder works on meanwhile.
        """
        to, what = subject_of(certificate), user_of(certificate) or "the certificate"
        if to is None or not signed_by(certificate, self.authority.certificate):
            raise Refusal(Why.OTHER_CA, what, f"is not signed by the CA {self.authority.fingerprint[:16]}")
        if serial_text(certificate.serial_number) in self._serials():
            raise Refusal(Why.REVOKED, what, "is revoked", "issue another one: `metastack pki issue`")
        return self.issue(to, hosts_of(certificate), life)

    def revoke(self, named: str, reason: str = "") -> list[CertificateFacts]:
        """Revoke a serial, a fingerprint, or every certificate of a user; raises Refusal for an unknown one.

        Certificates that are revoked already stay as they are. The revocation list is written in any case.
        """
        hits = [one for one in self._issued() if named in _names_of(one)]
        if not hits:
            raise Refusal(
                Why.UNKNOWN, f"certificate {named!r}", "was not issued here", "`metastack pki list` shows all"
            )
        now = self._clock()
        try:
            with _locked(self.path):
                known = self.revoked()
                serials = {one.serial for one in known}
                new = [one for one in hits if serial_text(one.serial_number) not in serials]
                known += [
                    Revoked(
                        serial=serial_text(one.serial_number),
                        user=user_of(one),
                        at=now.replace(microsecond=0),
                        reason=reason,
                    )
                    for one in new
                ]
                self._write_revoked(known)
        except OSError as error:
            raise _cannot_write(self.path, error) from None
        serials = {one.serial for one in known}
        return [facts_of(one, now, serials) for one in hits]

    def revoked(self) -> list[Revoked]:
        """Every revocation, oldest first; raises Refusal for a record that cannot be read.

        Safety: an unreadable record is no empty one, else the next revocation would bring back all others.
        """
        path = self.path / _REVOKED_FILE
        if not path.exists():
            return []
        try:
            return msgspec.json.decode(read(path), type=_RevokedFile).revoked
        except msgspec.MsgspecError as error:
            raise Refusal(Why.NOT_READABLE, str(path), f"cannot be read: {error}", "restore it") from None

    def list(self) -> list[CertificateFacts]:
        """Everything that was issued, by user, the newest last."""
        now, serials = self._clock(), self._serials()
        found = [facts_of(one, now, serials) for one in self._issued()]
        return sorted(found, key=lambda one: (one.user, one.not_after, one.serial))

    def _serials(self) -> set[str]:
        return {one.serial for one in self.revoked()}

    def _issued(self) -> Iterator[x509.Certificate]:
        for path in sorted((self.path / _ISSUED).glob("*.crt")):
            yield read_certificate(path)


def _names_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """What a person may call a certificate."""
    return user_of(certificate), serial_text(certificate.serial_number), fingerprint(certificate)


def _cannot_write(path: Path, error: OSError) -> Refusal:
    return Refusal(Why.NOT_READABLE, f"CA {path}", f"cannot be changed: {error.strerror}", "run with sudo")


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    handle = os.open(path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, SECRET_MODE)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
