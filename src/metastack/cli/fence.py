"""``metastack fence``: what was shut out of the storage, and the two verbs that ask for it by hand.

Owns: options and printing; ``node fence`` and ``node unfence`` are mounted by :mod:`metastack.cli.node`.
Refuses: rules about fences (:mod:`metastack.commands.fence.requests`).
Rule: both verbs want a reason, and a yes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from .complete import node_names
from .frame import Frame, Yes, frame_of, noun, reason_option, verb
from .session import confirm, note, with_cluster, with_storage

if TYPE_CHECKING:
    from metastack.commands.fence.views import FenceView
    from metastack.commands.request import Cluster
    from metastack.ports import Storage

    from .output import Printer

app = noun("fence", "Fences: nodes that were blocked from the storage.")

Name = Annotated[str, typer.Argument(metavar="NODE", autocompletion=node_names)]
Why = Annotated[str, reason_option("Reason; recorded in the receipt.")]


def _printer(frame: Frame) -> Printer[FenceView]:
    from .output import Column, Printer, age

    columns: list[Column[FenceView]] = [
        Column("NODE", lambda v: v.name),
        Column("STATE", lambda v: v.state),
        Column("NODE-STATE", lambda v: v.node_state),
        Column("THROUGH", lambda v: v.fenced_through),
        Column("FENCED", lambda v: age(v.at)),
        Column("RETURNED", lambda v: v.returned),
        Column("BY", lambda v: v.by),
        Column("METHOD", lambda v: v.method),
        Column("OSD-EPOCH", lambda v: v.osd_epoch),
        Column("ADDRESSES", lambda v: v.addresses, wide=True),
        Column("CLIENTS", lambda v: v.clients, wide=True),
        Column("USERS", lambda v: v.users, wide=True),
        Column("VERIFIED", lambda v: v.verified, wide=True),
        Column("OPEN", lambda v: age(v.intent_at) if v.state == "open" else None),
        Column("FENCER", lambda v: v.intent_by),
        Column("REASON", lambda v: v.intent_reason or v.reason, wide=True),
        Column("TROUBLE", lambda v: v.trouble),
    ]
    return Printer(frame.output, columns, lambda v: v.name)


@verb(app, "list")
def list_(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep printing changes.")] = False,
) -> None:
    """List the last fence of every node, and open fences."""
    from metastack.commands.fence.requests import FENCES
    from metastack.commands.fence.views import fence_views

    from .watching import print_list

    frame = frame_of(ctx)
    printer = _printer(frame)
    with_cluster(
        frame,
        lambda cluster: print_list(
            cluster, cluster.keys.prefixes(FENCES), fence_views, printer, watch, lambda view: view.name
        ),
    )


async def _shown(cluster: Cluster, name: str) -> FenceView:
    from metastack.commands.fence.requests import FENCES
    from metastack.commands.fence.views import fence_view
    from metastack.commands.problem import Code, Problem, not_found
    from metastack.commands.reading import read_world

    world = await read_world(cluster, cluster.keys.prefixes(FENCES))
    view = fence_view(world, name)
    if view is None:
        if name in world.nodes():
            raise Problem(
                Code.NOT_FOUND,
                f"fence of {name}",
                "does not exist: the node was never fenced",
                f"`metastack node show {name}` shows the node",
            )
        raise not_found(f"node {name}", "`metastack node list` shows the nodes that joined")
    return view


@verb(app)
def show(ctx: typer.Context, name: Name) -> None:
    """Show the fence receipt of a node."""
    frame = frame_of(ctx)
    _printer(frame).one(with_cluster(frame, lambda cluster: _shown(cluster, name)), detail=True)


def fence(
    ctx: typer.Context,
    name: Name,
    reason: Why,
    yes: Yes = False,
    timeout: Annotated[
        float, typer.Option("--timeout", min=0, metavar="SECONDS", help="Maximum wait, seconds.")
    ] = 60.0,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Return without waiting.")] = False,
) -> None:
    """Block a lost node from the storage; its VMs start on other nodes.

    It overrides the mass brake.
    """
    from metastack.commands.fence.requests import check_fence, check_reason, fence_node, wait_fenced
    from metastack.commands.request import new_request

    frame, request = frame_of(ctx), new_request(reason)
    check_reason(name, reason, "a fence by hand")
    if not yes:
        with_cluster(frame, lambda cluster: check_fence(cluster, name))
    confirm(f"Fence node {name}? Guests that still run there lose their disks.", yes)

    async def work(cluster: Cluster) -> FenceView:
        before = await fence_node(cluster, request, name)
        if no_wait:
            return await _shown(cluster, name)
        return await wait_fenced(
            cluster, name, before, timeout, lambda told: note(frame, f"node {name}: {told}")
        )

    _printer(frame).one(with_cluster(frame, work), detail=True)


def unfence(
    ctx: typer.Context,
    name: Name,
    reason: Why,
    yes: Yes = False,
    user: Annotated[str, typer.Option("--user", help="Ceph user that may lift blocks, such as admin.")] = "",
    keyring: Annotated[str, typer.Option("--keyring", metavar="FILE", help="Keyring file of that user.")] = "",
) -> None:
    """Lift the block of a node that never returns.

    Other hosts can then use its addresses.
    """
    from metastack.commands.fence.requests import check_reason, check_unfence, unfence_node
    from metastack.commands.request import new_request

    frame, request = frame_of(ctx), new_request(reason)
    check_reason(name, reason, "lifting a fence")
    if not yes:
        with_cluster(frame, lambda cluster: check_unfence(cluster, name))
    confirm(
        f"Is the host of {name} switched off for good? A guest that runs there could write to its disk again.",
        yes,
    )

    async def work(cluster: Cluster, storage: Storage) -> FenceView:
        return await unfence_node(cluster, request, name, storage)

    found = with_storage(frame, work, f"node {name}", user=user, keyring=keyring)
    _printer(frame).one(found, detail=True)
