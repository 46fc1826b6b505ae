"""``metastack doctor``: what is wrong with this cluster, what it means, what mends it.

Owns: options, printing and the exit status. Refuses: judging (:mod:`metastack.commands.doctor`).
Rule: exit 1 when there is an error, with ``--strict`` also when there is a warning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .frame import Frame, Output, frame_of, verb
from .session import context_of, with_cluster, with_storage

if TYPE_CHECKING:
    from metastack.commands.doctor.facts import Facts
    from metastack.commands.request import Cluster
    from metastack.ports import Storage

app = typer.Typer(rich_markup_mode=None, add_completion=False)


def _ask_storage(frame: Frame, facts: Facts, user: str, keyring: str) -> None:
    """Let the storage speak too; what keeps it from that is a finding, not a failure."""
    from metastack.commands.doctor.facts import ask_storage
    from metastack.commands.problem import Problem

    settings = context_of(frame).storage
    name = user or (settings.user if settings is not None else "")

    async def look(_: Cluster, storage: Storage) -> None:
        await ask_storage(facts, storage, name)

    try:
        with_storage(frame, look, "storage", user=user, keyring=keyring)
    except Problem as problem:
        facts.storage_why = problem.message


def _look_at_certificate(facts: Facts, path: str) -> None:
    if not path:
        return
    from pathlib import Path

    from metastack.pki.facts import facts_of
    from metastack.pki.files import read_certificate
    from metastack.pki.refusal import Refusal

    try:
        facts.certificate = facts_of(read_certificate(Path(path)), facts.now)
    except Refusal as error:
        facts.certificate_why = str(error)


@verb(app)
def doctor(
    ctx: typer.Context,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 1 on warnings, too.")] = False,
    user: Annotated[str, typer.Option("--user", help="Ceph user to check, in place of the context's.")] = "",
    keyring: Annotated[str, typer.Option("--keyring", metavar="FILE", help="Keyring file of that user.")] = "",
    no_storage: Annotated[bool, typer.Option("--no-storage", help="Skip the checks of the storage.")] = False,
) -> None:
    """Find problems and show how to repair them."""
    from datetime import UTC, datetime

    from metastack import __version__
    from metastack.commands.doctor import examine
    from metastack.commands.doctor.facts import Finding, Severity, collect

    from .findings import count, tell
    from .output import Printer
    from .version import system

    frame = frame_of(ctx)
    facts = with_cluster(frame, lambda cluster: collect(cluster, __version__, datetime.now(UTC)))
    facts.system = system()
    _look_at_certificate(facts, context_of(frame).store.cert)
    if no_storage:
        facts.storage_why = "--no-storage was given"
    elif not facts.world_why:
        _ask_storage(frame, facts, user, keyring)
    found = examine(facts)
    counts = count(found)
    if frame.output in (Output.TABLE, Output.WIDE):
        tell(frame, found)
    else:
        printer: Printer[Finding] = Printer(frame.output, [], lambda f: f.name)
        printer.list(found)
    if counts[Severity.ERROR] or (strict and counts[Severity.WARNING]):
        raise typer.Exit(1)
