"""``metastack node token``: make, list and revoke join tokens.

Owns: the verbs' options and what they print. Refuses: rules (:mod:`metastack.commands.joining.tokens`).
Rule: a token is printed once, on standard output, and nothing else is.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .frame import Frame, Output, Reason, frame_of, noun, reason_option, verb
from .session import context_of, note, with_cluster

if TYPE_CHECKING:
    from metastack.commands.joining.tokens import NewToken, TokenView

    from .output import Printer

app = noun("token", "Join tokens: one admits one node.")


@verb(app)
def create(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NODE", help="Name of the new node.")],
    ttl: Annotated[
        str, typer.Option("--ttl", metavar="TIME", help="Lifetime, such as 30m; at most 24h.")
    ] = "1h",
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="HOST", help="Host of its certificate: DNS name or IP; repeatable."),
    ] = None,
    storage_address: Annotated[
        list[str] | None,
        typer.Option("--storage-address", metavar="IP", help="IP towards the storage; repeatable."),
    ] = None,
    etcd: Annotated[
        list[str] | None,
        typer.Option("--etcd", metavar="URL", help="etcd as the node reaches it; default: the context's."),
    ] = None,
    reason: Reason = "",
) -> None:
    """Make a join token for a node, and print it once."""
    from metastack.commands.joining.tokens import check_token, create_token
    from metastack.commands.request import new_request

    from .output import Column, Printer
    from .pki import refused

    frame, request = frame_of(ctx), new_request(reason)
    hosts, addresses = tuple(host or ()), tuple(storage_address or ())
    check_token(name, ttl, hosts, addresses)
    store = context_of(frame).store
    ca = Path(store.ca).read_bytes() if store.ca else b""
    with refused():
        made = with_cluster(
            frame,
            lambda cluster: create_token(
                cluster,
                request,
                name,
                tuple(etcd or store.endpoints),
                ttl=ttl,
                hosts=hosts,
                storage_addresses=addresses,
                ca=ca,
            ),
        )
    if frame.output in (Output.TABLE, Output.WIDE):
        print(made.token)
        note(frame, f"token {made.id} for {name}: on that host, `metastack node join -` reads it")
        return
    printer: Printer[NewToken] = Printer(frame.output, [Column("ID", lambda v: v.id)], lambda v: v.token)
    printer.one(made)


@verb(app, "list")
def list_(ctx: typer.Context) -> None:
    """List join tokens."""
    from metastack.commands.joining.tokens import list_tokens

    frame = frame_of(ctx)
    _printer(frame).list(with_cluster(frame, list_tokens))


@verb(app)
def revoke(
    ctx: typer.Context,
    ident: Annotated[str, typer.Argument(metavar="ID", help="Token to revoke.")],
    reason: Annotated[str, reason_option("Reason; recorded with the revocation.")] = "",
) -> None:
    """Revoke a join token; a node that joined by it stays."""
    from metastack.commands.joining.tokens import revoke_token
    from metastack.commands.request import new_request

    frame, request = frame_of(ctx), new_request(reason)
    _printer(frame).one(with_cluster(frame, lambda cluster: revoke_token(cluster, request, ident)))


def _printer(frame: Frame) -> Printer[TokenView]:
    from .output import Column, Printer

    columns: list[Column[TokenView]] = [
        Column("ID", lambda v: v.id),
        Column("NODE", lambda v: v.node),
        Column("STATE", lambda v: v.state),
        Column("LEFT", lambda v: f"{v.left_s}s"),
        Column("BY", lambda v: v.by),
        Column("AT", lambda v: v.at, wide=True),
        Column("REASON", lambda v: v.reason, wide=True),
        Column("MESSAGE", lambda v: v.message, if_any=True),
    ]
    return Printer(frame.output, columns, lambda v: v.id)
