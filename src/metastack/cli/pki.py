"""``metastack pki``: the cluster's certificate authority, in a folder of a management host.

Owns: options, files that a certificate is written to, and printing. Refuses: etcd, but for revoked users.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from .frame import Frame, Yes, frame_of, noun, reason_option, verb
from .session import confirm, note, with_accounts

if TYPE_CHECKING:
    from metastack.commands.cluster.identity import EtcdAccounts
    from metastack.commands.request import Cluster
    from metastack.pki.facts import CertificateFacts
    from metastack.pki.files import IdentityFiles
    from metastack.pki.folder import CaFolder, Issued
    from metastack.pki.subject import Subject
    from metastack.settings import StoreSettings

    from .output import Printer

app = noun("pki", "Certificates: issue, renew, list, revoke.")

Folder = Annotated[Path, typer.Option("--dir", metavar="FOLDER", help="Folder of the CA.")]
GOOD = ("valid", "due", "early")
"""States of a certificate that counts."""
_PEOPLE = ("operator", "service")
DEFAULT: Path = Path("/etc/metastack/ca")
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="FOLDER", help="Folder for the files; default: the user's name."),
]
Days = Annotated[int | None, typer.Option("--days", min=1, max=3650, help="Lifetime, days.")]


@contextmanager
def refused() -> Iterator[None]:
    """A refusal as a problem, with its exit status."""
    from metastack.commands.problem import Code, Problem
    from metastack.pki.refusal import Refusal, Why

    codes = {
        Why.UNKNOWN: Code.NOT_FOUND,
        Why.EXISTS: Code.CONFLICT,
        Why.REVOKED: Code.CONFLICT,
        Why.BAD_NAME: Code.USAGE,
        Why.BAD_HOST: Code.USAGE,
        Why.BAD_LIFE: Code.USAGE,
    }
    try:
        yield
    except Refusal as error:
        code = codes.get(error.why, Code.FAILED)
        raise Problem(code, error.object, error.message, error.hint) from None


def open_ca(folder: Path) -> CaFolder:
    from metastack.pki.folder import CaFolder

    return CaFolder(folder, utc_now)


def utc_now() -> Any:
    from datetime import UTC, datetime

    return datetime.now(UTC)


def root_settings(frame: Frame, ca: CaFolder) -> StoreSettings:
    """The cluster of the context as etcd's root, whose certificate the CA's folder has."""
    from msgspec.structs import replace

    from metastack.commands.cluster.identity import check_endpoints
    from metastack.pki.subject import SubjectKind, subject

    from .session import context_of

    store = context_of(frame).store
    check_endpoints(store.endpoints)
    return replace(settings_of(ca.own(subject(SubjectKind.ROOT)), store.endpoints), root=store.root)


def people_of(ca: CaFolder) -> list[Subject]:
    """Operators and services with a good certificate; who has several is what the one that ends last says."""
    from metastack.pki.subject import SubjectKind, parse

    good = {one.user: parse(one.user, one.role) for one in ca.list() if one.state in GOOD}
    kinds = (SubjectKind.OPERATOR, SubjectKind.SERVICE)
    return [found for found in good.values() if found is not None and found.kind in kinds]


def _admit(frame: Frame, ca: CaFolder, to: Subject) -> None:
    """Make a user of etcd of somebody who got a certificate; where etcd is not reached, say what is missing."""
    from metastack.commands.cluster.identity import admit
    from metastack.commands.problem import Problem
    from metastack.contexts import ContextError

    if not to.etcd_roles():
        return
    try:
        store = root_settings(frame, ca)
        for line in with_accounts(store, lambda cluster, accounts: admit(cluster, accounts, [to])):
            note(frame, line)
    except (ContextError, Problem) as error:
        later = "`metastack cluster apply-rights`" if to.kind in _PEOPLE else "join it with a token, or repeat"
        note(frame, f"{to.user} is not a user of etcd yet: {error}; {later}")


def settings_of(files: IdentityFiles, endpoints: tuple[str, ...]) -> StoreSettings:
    """etcd as the holder of an identity reaches it."""
    from metastack.contexts import ENV_ROOT
    from metastack.settings import StoreSettings

    named = {"root": root} if (root := os.environ.get(ENV_ROOT, "")) else {}
    return StoreSettings(
        endpoints=endpoints, ca=str(files.ca), cert=str(files.cert), key=str(files.key), **named
    )


def _printer(frame: Frame) -> Printer[CertificateFacts]:
    from .output import Column, Printer

    columns: list[Column[CertificateFacts]] = [
        Column("USER", lambda v: v.user),
        Column("ROLE", lambda v: v.role, if_any=True),
        Column("STATE", lambda v: v.state),
        Column("EXPIRES", lambda v: v.not_after.strftime("%Y-%m-%dT%H:%M:%SZ")),
        Column("DAYS", lambda v: v.left_s // 86400),
        Column("HOSTS", lambda v: v.hosts, wide=True),
        Column("SERIAL", lambda v: v.serial, wide=True),
        Column("FINGERPRINT", lambda v: v.fingerprint, wide=True),
    ]
    return Printer(frame.output, columns, lambda v: v.serial)


def _days(days: int | None) -> Any:
    from datetime import timedelta

    return None if days is None else timedelta(days=days)


def _hand_out(frame: Frame, ca: CaFolder, issued: Issued, out: Path | None) -> CertificateFacts:
    """Write the files and say where they are."""
    from metastack.pki.facts import facts_of
    from metastack.pki.files import write_identity

    facts = facts_of(issued.certificate, utc_now())
    try:
        files = write_identity(
            out or Path(facts.user), facts.user, ca.authority.certificate, issued.certificate, issued.key
        )
    except OSError as error:
        from metastack.commands.problem import Code, Problem

        raise Problem(
            Code.FAILED,
            str(out or facts.user),
            f"cannot be written: {error.strerror}",
            f"revoke the certificate, it is lost: `metastack pki revoke {facts.serial}`",
        ) from None
    made = [str(files.cert), str(files.ca), *([str(files.key)] if issued.key is not None else [])]
    note(frame, f"{facts.user}: wrote {', '.join(made)}")
    return facts


@verb(app)
def init(
    ctx: typer.Context,
    folder: Folder = DEFAULT,
    name: Annotated[str, typer.Option("--name", help="Name of the cluster, a part of the CA's name.")] = (
        "metastack"
    ),
    cert: Annotated[
        Path | None, typer.Option("--ca-cert", metavar="FILE", help="Certificate of a CA to use.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--ca-key", metavar="FILE", help="Key of that CA.")] = None,
) -> None:
    """Make the cluster's CA, or use a given one."""
    from metastack.commands.problem import usage
    from metastack.pki.facts import facts_of
    from metastack.pki.folder import CaFolder

    frame = frame_of(ctx)
    if (cert is None) is not (key is None):
        raise usage("", "--ca-cert and --ca-key go together")
    with refused():
        if cert is not None and key is not None:
            ca = CaFolder.adopt(folder, cert, key, utc_now)
        else:
            ca = CaFolder.make(folder, name, utc_now)
    _printer(frame).one(facts_of(ca.authority.certificate, utc_now()), detail=True)


@verb(app)
def issue(
    ctx: typer.Context,
    kind: Annotated[str, typer.Argument(metavar="KIND", help="One of node, operator, service, etcd, root.")],
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Name of the node, person or service.")] = "",
    folder: Folder = DEFAULT,
    role: Annotated[
        str, typer.Option("--role", help="Operator: viewer, operator, admin. Service: its function.")
    ] = "",
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="HOST", help="DNS name or IP address; repeatable."),
    ] = None,
    days: Days = None,
    out: Out = None,
    request: Annotated[
        Path | None, typer.Option("--request", metavar="FILE", help="Sign this CSR; make no key.")
    ] = None,
) -> None:
    """Issue a certificate; its common name is the etcd user."""
    from metastack.commands.problem import usage
    from metastack.pki.authority import read_request
    from metastack.pki.files import read
    from metastack.pki.folder import Issued
    from metastack.pki.subject import SubjectKind, subject

    frame = frame_of(ctx)
    kinds = [known.value for known in SubjectKind if known is not SubjectKind.JOIN]
    if kind not in kinds:
        raise usage(f"kind {kind!r}", "is unknown", f"kinds: {', '.join(kinds)}")
    with refused():
        to, hosts = subject(SubjectKind(kind), name, role), tuple(host or ())
        ca = open_ca(folder)
        if request is not None:
            public = read_request(read(request), to)
            issued = Issued(ca.sign(public, to, hosts, _days(days)))
        else:
            issued = ca.issue(to, hosts, _days(days))
        facts = _hand_out(frame, ca, issued, out)
        _admit(frame, ca, to)
    _printer(frame).one(facts, detail=True)


@verb(app)
def serve(
    ctx: typer.Context,
    folder: Folder = DEFAULT,
    storage_user: Annotated[
        str, typer.Option("--storage-user", metavar="USER", help="cephx user that may make others.")
    ] = "",
    storage_keyring: Annotated[
        str, typer.Option("--storage-keyring", metavar="FILE", help="Keyring file of that user.")
    ] = "",
) -> None:
    """Answer join tokens and new nodes, until it is stopped.

    The context's certificate must be of an etcd user with the role root, such as service.pki.
    """
    from .session import serve_pki

    frame = frame_of(ctx)
    with refused():
        ca = open_ca(folder)
    serve_pki(frame, ca, storage_user, storage_keyring)


@verb(app)
def renew(
    ctx: typer.Context,
    cert: Annotated[Path, typer.Argument(metavar="FILE", help="Certificate to renew.")],
    folder: Folder = DEFAULT,
    days: Days = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="FOLDER", help="Folder for the files; default: the certificate's."),
    ] = None,
) -> None:
    """Renew a certificate: a new key, the same user and hosts.

    The old certificate stays valid until it expires or is revoked.
    """
    from metastack.pki.files import read_certificate

    frame = frame_of(ctx)
    with refused():
        ca = open_ca(folder)
        issued = ca.renew(read_certificate(cert), _days(days))
        facts = _hand_out(frame, ca, issued, out or cert.absolute().parent)
    _printer(frame).one(facts, detail=True)


@verb(app, "list")
def list_(ctx: typer.Context, folder: Folder = DEFAULT) -> None:
    """List issued certificates and when they expire."""
    with refused():
        found = open_ca(folder).list()
    _printer(frame_of(ctx)).list(found)


@verb(app)
def revoke(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="USER|SERIAL|FINGERPRINT", help="Certificates to revoke.")],
    reason: Annotated[str, reason_option("Reason; recorded with the revocation.")],
    folder: Folder = DEFAULT,
    yes: Yes = False,
) -> None:
    """Revoke certificates and write the revocation list."""
    frame = frame_of(ctx)
    moves = " Its VMs move to other nodes." if name.startswith("node.") else ""
    confirm(f"Revoke the certificates of {name}? This cannot be undone.{moves}", yes)
    with refused():
        ca = open_ca(folder)
        hit = ca.revoke(name, reason)
    note(frame, f"give {ca.crl} to every etcd member")
    _revoke_in_etcd(frame, ca, hit)
    _printer(frame).list(hit)


def _revoke_in_etcd(frame: Frame, ca: CaFolder, hit: list[CertificateFacts]) -> None:
    """Delete the users that have no good certificate any more; without a context say that it was not done."""
    from metastack.commands.cluster.identity import revoke_user
    from metastack.commands.problem import Problem
    from metastack.contexts import ContextError
    from metastack.pki.subject import ROOT_USER

    good = {one.user for one in ca.list() if one.state in GOOD}
    gone = sorted({one.user for one in hit} - good - {ROOT_USER})
    if not gone:
        return
    later = "repeat this command where etcd is reached: until then etcd admits its connections"
    try:
        store = root_settings(frame, ca)
    except (ContextError, Problem) as error:
        note(frame, f"{', '.join(gone)}: not deleted in etcd: {error}; {later}")
        return

    async def delete(cluster: Cluster, accounts: EtcdAccounts) -> list[str]:
        return [line for user in gone for line in await revoke_user(cluster, accounts, user)]

    try:
        for line in with_accounts(store, delete):
            note(frame, line)
    except Problem as error:
        error.hint = f"{', '.join(gone)}: the certificate is revoked, the user in etcd is not; {later}"
        raise
