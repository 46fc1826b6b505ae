"""``metastack cluster init`` and ``apply-rights``: rights in etcd.

Owns: options, the CA's folder, the admin's context. Refuses: the order of steps in etcd
(:mod:`metastack.commands.cluster.identity`).
Rule: whatever died half-way is finished by the same command once more.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from ..frame import Frame, frame_of, verb
from ..pki import DEFAULT, Folder, open_ca, people_of, refused, root_settings, settings_of, utc_now
from ..session import members_of, note, with_accounts

if TYPE_CHECKING:
    from metastack.pki.folder import CaFolder
    from metastack.pki.subject import Subject
    from metastack.settings import StoreSettings


class InitView(Struct, kw_only=True):
    """What there is now, and what of it this run did."""

    cluster: str
    context: str
    ca: str
    """Folder of the CA."""
    ca_fingerprint: str
    admin: str
    """etcd user of the first admin."""
    changed: list[str]
    """Empty: all of it was there."""


class RightsView(Struct, kw_only=True):
    """What was changed in etcd."""

    changed: list[str]


def mount(app: typer.Typer) -> None:
    """The verbs."""
    verb(app)(init)
    verb(app, "apply-rights")(apply_rights)


def init(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="[NAME]", help="Name of the cluster.")] = "metastack",
    folder: Folder = DEFAULT,
    cert: Annotated[
        Path | None, typer.Option("--ca-cert", metavar="FILE", help="Certificate of a CA to use.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--ca-key", metavar="FILE", help="Key of that CA.")] = None,
    admin: Annotated[str, typer.Option("--admin", metavar="NAME", help="Name of the first admin.")] = "admin",
) -> None:
    """Make an etcd a cluster's: CA, users, roles, the first admin and its context.

    Run it again after an interruption: it finishes what is missing.
    """
    from metastack.commands.cluster.identity import check_endpoints, check_members, secure
    from metastack.commands.problem import usage
    from metastack.commands.request import new_request
    from metastack.pki.subject import SubjectKind, subject

    frame = frame_of(ctx)
    if (cert is None) is not (key is None):
        raise usage("", "--ca-cert and --ca-key go together")
    endpoints = _endpoints(frame)
    check_endpoints(endpoints)
    with refused():
        first = subject(SubjectKind.OPERATOR, admin, "admin")
        ca = _ca(folder, name, cert, key)
        store = settings_of(ca.own(subject(SubjectKind.ROOT)), endpoints)
    check_members(members_of(store), members_of(_nobody(store)), str(folder))
    request = new_request()
    changed = with_accounts(store, lambda cluster, accounts: secure(cluster, accounts, first, request))
    with refused():
        changed += _keep_context(name, ca, first, store)
    view = InitView(
        cluster=name,
        context=name,
        ca=str(folder),
        ca_fingerprint=ca.authority.fingerprint,
        admin=first.user,
        changed=changed,
    )
    _print_init(frame, view)


def apply_rights(ctx: typer.Context, folder: Folder = DEFAULT) -> None:
    """Apply roles, and users of certificates, to etcd.

    For use after an upgrade, and after a change of storage_lost_s.
    """
    from metastack.commands.cluster.identity import apply_rights as apply

    frame = frame_of(ctx)
    with refused():
        ca = open_ca(folder)
        store, people = root_settings(frame, ca), people_of(ca)
    view = RightsView(changed=with_accounts(store, lambda c, accounts: apply(c, accounts, people)))
    _print_rights(frame, view)


def _nobody(store: StoreSettings) -> StoreSettings:
    from msgspec.structs import replace

    return replace(store, cert="", key="")


def _endpoints(frame: Frame) -> tuple[str, ...]:
    from metastack.contexts import ENV_ENDPOINTS

    named = os.environ.get(ENV_ENDPOINTS, "")
    return frame.endpoints or tuple(part.strip() for part in named.split(",") if part.strip())


def _ca(folder: Path, name: str, cert: Path | None, key: Path | None) -> CaFolder:
    """The CA of the folder, made or adopted if there is none; raises Refusal."""
    from metastack.pki.files import read_certificate
    from metastack.pki.folder import CaFolder
    from metastack.pki.refusal import Refusal, Why

    there = (folder / "ca.crt").exists()
    if cert is None or key is None:
        return open_ca(folder) if there else CaFolder.make(folder, name, utc_now)
    if not there:
        return CaFolder.adopt(folder, cert, key, utc_now)
    ca = open_ca(folder)
    if read_certificate(cert) != ca.authority.certificate:
        raise Refusal(Why.EXISTS, f"CA {folder}", "is another one than --ca-cert", "name another --dir")
    return ca


def _keep_context(name: str, ca: CaFolder, admin: Subject, store: StoreSettings) -> list[str]:
    """The admin's certificate and the context that shows it, unless both are there and good."""
    from msgspec.structs import replace

    from metastack.contexts import Context, identity_folder, load, owned_folder, save_context
    from metastack.pki.files import IdentityFiles, read_identity, write_identity
    from metastack.pki.refusal import Refusal

    folder = identity_folder(name)
    files = IdentityFiles(folder / "ca.crt", folder / f"{admin.user}.crt", folder / f"{admin.user}.key")
    context = Context(
        name=name, store=replace(store, ca=str(files.ca), cert=str(files.cert), key=str(files.key))
    )
    try:
        found = read_identity(files, utc_now())
        if found.ca == ca.authority.certificate and load().contexts.get(name) == context:
            return []
    except Refusal:
        pass
    made = ca.issue(admin)
    with owned_folder(folder):
        write_identity(folder, admin.user, ca.authority.certificate, made.certificate, made.key)
    save_context(context)
    return [f"certificate {files.cert}", f"context {name} in use"]


def _print_init(frame: Frame, view: InitView) -> None:
    from ..output import Column, Printer

    columns: list[Column[InitView]] = [
        Column("CLUSTER", lambda v: v.cluster),
        Column("CONTEXT", lambda v: v.context),
        Column("ADMIN", lambda v: v.admin),
        Column("CA", lambda v: v.ca),
        Column("FINGERPRINT", lambda v: v.ca_fingerprint),
        Column("CHANGED", lambda v: len(v.changed)),
    ]
    for line in view.changed:
        note(frame, line)
    Printer(frame.output, columns, lambda v: v.cluster).one(view, detail=True)


def _print_rights(frame: Frame, view: RightsView) -> None:
    from ..output import Column, Printer

    for line in view.changed:
        note(frame, line)
    columns: list[Column[RightsView]] = [Column("CHANGED", lambda v: len(v.changed))]
    Printer(frame.output, columns, lambda v: "\n".join(v.changed)).one(view, detail=True)
