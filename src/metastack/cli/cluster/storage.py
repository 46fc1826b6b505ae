"""``metastack cluster storage``: which storage the cluster has, and whose mark that bears.

Owns: options, and the words that a person reads before saying yes.
Refuses: rules (:mod:`metastack.commands.cluster.storage`). Rule: adopting wants a reason, and a yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from ..frame import Frame, Reason, Yes, frame_of, noun, verb
from ..session import confirm, with_storage

if TYPE_CHECKING:
    from metastack.commands.cluster.storage_views import StorageView
    from metastack.commands.request import Cluster
    from metastack.ports import Storage

    from ..output import Printer

app = noun("storage", "The storage of the cluster and its ownership mark.")

User = Annotated[str, typer.Option("--user", help="Ceph user, in place of the context's.")]
Keyring = Annotated[str, typer.Option("--keyring", metavar="FILE", help="Keyring file of that user.")]


@app.callback()
def _storage() -> None:
    """The storage of the cluster and its ownership mark."""


def _printer(frame: Frame) -> Printer[StorageView]:
    from ..output import Column, Printer

    columns: list[Column[StorageView]] = [
        Column("STATE", lambda v: v.state),
        Column("KIND", lambda v: v.kind),
        Column("FSID", lambda v: v.fsid),
        Column("POOL", lambda v: v.pool),
        Column("POOL-ID", lambda v: v.pool_id),
        Column("CLUSTER", lambda v: v.cluster_id),
        Column("OWNER", lambda v: v.owner_cluster_id),
        Column("OWNER-ROOT", lambda v: v.owner_root, wide=True),
        Column("HERE", lambda v: v.here, wide=True),
        Column("CREATED", lambda v: v.created, wide=True),
        Column("BY", lambda v: v.by, wide=True),
        Column("REASON", lambda v: v.reason, wide=True),
        Column("TROUBLE", lambda v: v.trouble),
    ]
    return Printer(frame.output, columns, lambda v: v.state)


@verb(app)
def show(ctx: typer.Context, user: User = "", keyring: Keyring = "") -> None:
    """Show the cluster's storage and its ownership mark."""
    from metastack.commands.cluster.storage import look_at_storage

    frame = frame_of(ctx)
    found = with_storage(frame, look_at_storage, "storage", user=user, keyring=keyring)
    _printer(frame).one(found, detail=True)


@verb(app)
def init(
    ctx: typer.Context,
    reason: Reason = "",
    user: User = "",
    keyring: Keyring = "",
) -> None:
    """Record a storage without an owner as this cluster's, and mark it.

    Repeating it is safe.
    """
    from metastack.commands.cluster.storage import init_storage
    from metastack.commands.request import new_request

    frame, request = frame_of(ctx), new_request(reason)

    async def work(cluster: Cluster, storage: Storage) -> StorageView:
        return await init_storage(cluster, request, storage)

    found = with_storage(frame, work, "storage", user=user, keyring=keyring)
    _printer(frame).one(found, detail=True)


@verb(app)
def adopt(
    ctx: typer.Context,
    reason: Reason = "",
    yes: Yes = False,
    user: User = "",
    keyring: Keyring = "",
) -> None:
    """Take over a storage that is marked for another cluster.

    Use it after etcd was rebuilt.
    """
    from metastack.commands.cluster.storage import adopt_storage, check_adopt_reason
    from metastack.commands.request import new_request

    frame, request = frame_of(ctx), new_request(reason)
    check_adopt_reason(reason)
    confirm("Is this storage used by no other etcd? Nodes of the other etcd would no longer become ready.", yes)

    async def work(cluster: Cluster, storage: Storage) -> StorageView:
        return await adopt_storage(cluster, request, storage)

    found = with_storage(frame, work, "storage", user=user, keyring=keyring)
    _printer(frame).one(found, detail=True)
