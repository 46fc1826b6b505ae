"""``metastack context``: the clusters that this machine knows.

Owns: the verbs' options and what they print. Refuses: connecting to anything.
Rule: secrets are files, and only their names are shown.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from msgspec import Struct

from .frame import Frame, Yes, _context_names, frame_of, noun, verb
from .pki import refused, utc_now
from .session import confirm, note

if TYPE_CHECKING:
    from metastack.contexts import Context

    from .output import Printer

app = noun("context", "Clusters that this machine knows.")

Replace = Annotated[bool, typer.Option("--replace", help="Replace a context of the same name.")]


class ContextView(Struct, kw_only=True):
    """A context as a reader sees it."""

    name: str
    current: bool
    endpoints: list[str]
    root: str
    storage: str | None = None
    netns: str | None = None


def _view(context: Context, current: str) -> ContextView:
    return ContextView(
        name=context.name,
        current=context.name == current,
        endpoints=list(context.store.endpoints),
        root=context.store.root,
        storage=context.storage.kind if context.storage is not None else None,
        netns=context.netns or None,
    )


def _printer(frame: Frame) -> Printer[ContextView]:
    from .output import Column, Printer

    columns: list[Column[ContextView]] = [
        Column("CURRENT", lambda v: "*" if v.current else None),
        Column("NAME", lambda v: v.name),
        Column("STORAGE", lambda v: v.storage),
        Column("ENDPOINTS", lambda v: v.endpoints),
        Column("ROOT", lambda v: v.root, wide=True),
        Column("NETNS", lambda v: v.netns, wide=True),
    ]
    return Printer(frame.output, columns, lambda v: v.name)


@verb(app, "list")
def list_(ctx: typer.Context) -> None:
    """List contexts."""
    from metastack.contexts import ENV_CONTEXT, load

    frame, file = frame_of(ctx), load()
    current = frame.context or os.environ.get(ENV_CONTEXT, "") or file.current
    _printer(frame).list([_view(item, current) for _, item in sorted(file.contexts.items())])


@verb(app)
def use(
    ctx: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=_context_names)]
) -> None:
    """Make a context the current one."""
    from metastack.contexts import load, select_context

    select_context(name)
    _printer(frame_of(ctx)).one(_view(load().contexts[name], name))


@verb(app)
def add(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME")],
    ca: Annotated[Path | None, typer.Option("--ca", metavar="FILE", help="CA of etcd.")] = None,
    cert: Annotated[
        Path | None, typer.Option("--cert", metavar="FILE", help="Certificate to show etcd.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", metavar="FILE", help="Key of the certificate.")] = None,
    root: Annotated[str, typer.Option("--root", help="Prefix of every key in etcd.")] = "/metastack",
    storage: Annotated[str, typer.Option("--storage", help="Kind of the storage: ceph, file.")] = "",
    pool: Annotated[str, typer.Option("--pool", help="Ceph pool.")] = "vms",
    monitor: Annotated[
        list[str] | None, typer.Option("--monitor", metavar="HOST:PORT", help="Ceph monitor; repeatable.")
    ] = None,
    user: Annotated[str, typer.Option("--user", help="Ceph user.")] = "",
    keyring: Annotated[
        Path | None, typer.Option("--keyring", metavar="FILE", help="Keyring of that user.")
    ] = None,
    directory: Annotated[
        Path | None, typer.Option("--directory", metavar="FOLDER", help="Folder of the storage `file`.")
    ] = None,
    replace: Replace = False,
) -> None:
    """Add a context, and make it the current one."""
    from metastack.commands.problem import usage
    from metastack.contexts import Context, save_context
    from metastack.settings import StorageSettings, StoreSettings

    from .context_files import check_identity

    frame = frame_of(ctx)
    if not frame.endpoints:
        raise usage(f"context {name}", "names no etcd endpoint", "give --endpoint https://HOST:2379")
    if storage not in ("", "ceph", "file"):
        raise usage("--storage", f"{storage!r} is unknown", "kinds: ceph, file")
    if not storage and (monitor or user or keyring or directory):
        said = "`--storage ceph`" if monitor or user or keyring else "`--storage file`"
        raise usage(f"context {name}", "settings of a storage, and no storage", f"add {said}")
    _refuse_known(name, replace)
    disks = StorageSettings(
        kind=storage or "file",
        pool=pool,
        monitors=tuple(monitor or ()),
        user=user,
        keyring=_path(keyring),
        directory=_path(directory),
    )
    store = StoreSettings(endpoints=frame.endpoints, root=root, ca=_path(ca), cert=_path(cert), key=_path(key))
    with refused():
        check_identity(store, utc_now())
    context = Context(name=name, store=store, storage=disks if storage else None)
    save_context(context)
    _printer(frame).one(_view(context, name))


@verb(app)
def export(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=_context_names)],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File to write; it will hold a private key.")],
) -> None:
    """Write a context to a file, with its certificates inside."""
    from metastack.contexts import known

    from .context_files import export as write_file

    frame = frame_of(ctx)
    context = known(name)
    with refused():
        write_file(context, file, utc_now())
    note(frame, f"{file} holds a private key: hand it over in secret, and delete it then")
    _printer(frame).one(_view(context, name))


@verb(app, "import")
def import_(
    ctx: typer.Context,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="File of `metastack context export`.")],
    name: Annotated[str, typer.Option("--name", metavar="NAME", help="Name here; default: the file's.")] = "",
    replace: Replace = False,
) -> None:
    """Read a context from a file, and make it the current one."""
    from .context_files import parse, take

    frame = frame_of(ctx)
    with refused():
        _refuse_known(name or parse(file).name, replace)
        context = take(file, name, utc_now())
    _printer(frame).one(_view(context, context.name))


@verb(app)
def remove(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", autocompletion=_context_names)],
    yes: Yes = False,
) -> None:
    """Forget a context, and delete the certificates that were imported with it."""
    from metastack.contexts import identity_folder, known, load, owned_folder, remove_context

    from .context_files import forget_files

    view = _view(known(name), load().current)
    confirm(f"Forget the context {name} and delete its own certificates?", yes)
    remove_context(name)
    with owned_folder(identity_folder(name)) as folder:
        forget_files(folder)
    _printer(frame_of(ctx)).one(view)


def _refuse_known(name: str, replace: bool) -> None:
    from metastack.commands.problem import conflict
    from metastack.contexts import load

    if name in load().contexts and not replace:
        raise conflict(f"context {name}", "exists already", "name another one, or replace it with --replace")


def _path(path: Path | None) -> str:
    return str(path.absolute()) if path is not None else ""
