"""``metastack secret``: values that etcd holds encrypted, and the keyring of this host.

Owns: options, where a value is read from, and printing. Refuses: printing a value, and taking one as an
argument, which every user of the host could read.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .frame import Frame, Reason, Yes, frame_of, noun, verb
from .session import confirm, note, with_cluster

if TYPE_CHECKING:
    from metastack.commands.cluster.secret_keys import KeyView
    from metastack.commands.cluster.secrets import SecretView

    from .output import Printer

app = noun("secret", "Secrets: values that etcd holds encrypted.")
key = noun("key", "Keys of this host's keyring.")
app.add_typer(key)

Name = Annotated[str, typer.Argument(metavar="NAME")]
KeyFile = Annotated[Path, typer.Option("--key-file", metavar="FILE", help="Keyring of this host.")]
DEFAULT: Path = Path("/etc/metastack/secrets.key")
Force = Annotated[bool, typer.Option("--force", help="Also when live nodes lack the newest key.")]


def _printer(frame: Frame) -> Printer[SecretView]:
    from .output import Column, Printer, age

    columns: list[Column[SecretView]] = [
        Column("NAME", lambda v: v.name),
        Column("KEY", lambda v: v.key),
        Column("BYTES", lambda v: v.size_bytes),
        Column("AGE", lambda v: age(v.at)),
        Column("BY", lambda v: v.by, wide=True),
        Column("REASON", lambda v: v.reason, wide=True),
        Column("MESSAGE", lambda v: v.message, if_any=True),
    ]
    return Printer(frame.output, columns, lambda v: v.name)


def _key_printer(frame: Frame) -> Printer[KeyView]:
    from .output import Column, Printer

    columns: list[Column[KeyView]] = [
        Column("KEY", lambda v: v.id),
        Column("CREATED", lambda v: v.created),
        Column("NEWEST", lambda v: "yes" if v.newest else ""),
    ]
    return Printer(frame.output, columns, lambda v: v.id)


def _value(file: Path | None) -> bytes:
    """What to encrypt, byte by byte as it is there."""
    from metastack.commands.problem import Code, Problem, usage
    from metastack.secrets.envelope import MAX_BYTES

    if file is None:
        if sys.stdin.isatty():
            raise usage("", "the value comes from --file or from a pipe", "metastack secret put NAME < FILE")
        return sys.stdin.buffer.read(MAX_BYTES + 1)
    try:
        with file.open("rb") as source:
            return source.read(MAX_BYTES + 1)
    except OSError as error:
        raise Problem(Code.FAILED, str(file), f"cannot be read: {error.strerror}") from None


@verb(app)
def put(
    ctx: typer.Context,
    name: Name,
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="File with the value; default: stdin.")
    ] = None,
    key_file: KeyFile = DEFAULT,
    force: Force = False,
    reason: Reason = "",
) -> None:
    """Put a secret, or replace its value.

    The value is taken as it is, a newline at its end included. No verb prints it.
    """
    from metastack.commands import names
    from metastack.commands.cluster.secret_keys import read_keyring
    from metastack.commands.cluster.secrets import put_secret
    from metastack.commands.request import new_request

    frame, request = frame_of(ctx), new_request(reason)
    names.name("secret", name)
    keyring, value = read_keyring(key_file), _value(file)
    view = with_cluster(frame, lambda cluster: put_secret(cluster, request, keyring, name, value, force))
    _printer(frame).one(view)


@verb(app, "list")
def list_(ctx: typer.Context) -> None:
    """List secrets; never their values."""
    from metastack.commands.cluster.secrets import list_secrets

    frame = frame_of(ctx)
    _printer(frame).list(with_cluster(frame, list_secrets))


@verb(app)
def show(ctx: typer.Context, name: Name) -> None:
    """Show a secret; never its value."""
    from metastack.commands.cluster.secrets import show_secret

    frame = frame_of(ctx)
    _printer(frame).one(with_cluster(frame, lambda cluster: show_secret(cluster, name)), detail=True)


@verb(app)
def delete(ctx: typer.Context, name: Name, yes: Yes = False, reason: Reason = "") -> None:
    """Delete a secret."""
    from metastack.commands.cluster.secrets import delete_secret, show_secret
    from metastack.commands.request import new_request

    frame, request = frame_of(ctx), new_request(reason)
    view = with_cluster(frame, lambda cluster: show_secret(cluster, name))
    confirm(f"Delete secret {name}? Its value cannot be brought back.", yes)
    with_cluster(frame, lambda cluster: delete_secret(cluster, request, name))
    _printer(frame).one(view)


@verb(app)
def rotate(ctx: typer.Context, key_file: KeyFile = DEFAULT, force: Force = False, reason: Reason = "") -> None:
    """Encrypt every secret under the newest key.

    A rotation that was interrupted is finished by the next one.
    """
    from metastack.commands.cluster.secret_keys import read_keyring
    from metastack.commands.cluster.secrets import rotate_secrets
    from metastack.commands.request import new_request

    frame, request = frame_of(ctx), new_request(reason)
    keyring = read_keyring(key_file)

    def told(done: int, total: int) -> None:
        note(frame, f"{done} of {total}")

    done = with_cluster(frame, lambda cluster: rotate_secrets(cluster, request, keyring, force, told))
    _printer(frame).list(done)


@verb(key)
def create(ctx: typer.Context, key_file: KeyFile = DEFAULT) -> None:
    """Create a key; it is the newest.

    Copy the keyring to every node and management host before you put or rotate secrets.
    """
    from metastack.commands.cluster.secret_keys import create_key, views

    _key_printer(frame_of(ctx)).list(views(create_key(key_file)))


@verb(key)
def add(
    ctx: typer.Context,
    other: Annotated[Path, typer.Argument(metavar="FILE", help="Keyring of another host.")],
    key_file: KeyFile = DEFAULT,
) -> None:
    """Add the keys of another keyring."""
    from metastack.commands.cluster.secret_keys import add_keys, views

    _key_printer(frame_of(ctx)).list(views(add_keys(key_file, other)))


@verb(key, "list")
def list_keys(ctx: typer.Context, key_file: KeyFile = DEFAULT) -> None:
    """List the keys; never what they are."""
    from metastack.commands.cluster.secret_keys import read_keyring, views

    _key_printer(frame_of(ctx)).list(views(read_keyring(key_file)))


@verb(key)
def remove(
    ctx: typer.Context,
    key_id: Annotated[str, typer.Argument(metavar="KEY", help="Id of the key.")],
    key_file: KeyFile = DEFAULT,
    yes: Yes = False,
) -> None:
    """Remove a key under which no secret is encrypted.

    Backups of etcd that are older than the last rotation need it to be read.
    """
    from metastack.commands.cluster.secret_keys import remove_key, views

    frame = frame_of(ctx)
    confirm(f"Remove key {key_id}? Secrets in older backups of etcd cannot be read without it.", yes)
    left = with_cluster(frame, lambda cluster: remove_key(cluster, key_file, key_id))
    _key_printer(frame).list(views(left))
