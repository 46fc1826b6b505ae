"""``metastack node``: look at, label, taint, cordon, drain.

Owns: the verbs' options and what they print.
Refuses: rules about nodes (:mod:`metastack.commands.node.change`).
Rule: a node is what its records say; what it promised is computed, not asked for.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from . import fence, node_join, node_token
from .complete import node_names
from .frame import Frame, Output, Reason, Yes, frame_of, noun, verb
from .session import confirm, interrupted, note, with_cluster

if TYPE_CHECKING:
    from metastack.commands.node.views import NodeInfo
    from metastack.commands.request import Cluster, Request
    from metastack.core.model import Resources

    from .output import Printer

app = noun("node", "Compute nodes.")

Name = Annotated[str, typer.Argument(metavar="NODE", autocompletion=node_names)]
_ITS_OWN_WORDS = (
    *("address", "storage_address", "capacity", "room", "hypervisor", "since", "storage", "bridges", "console"),
    *("versions", "lag_ms"),
)
"""What goes with a node's lease: unknown of a lost one. UUID and storage addresses outlive it."""


def _printer(frame: Frame, *changed: str) -> Printer[NodeInfo]:
    """``changed``: columns that a table shows whatever its width: what the verb is about."""
    from .output import Column, Printer, age

    def cpus(used: Resources | None, all: Resources | None) -> str | None:
        return None if all is None else f"{used.cpus if used else 0:g}/{all.cpus:g}"

    def memory(used: Resources | None, all: Resources | None) -> str | None:
        return None if all is None else f"{used.memory_mib if used else 0}/{all.memory_mib}MiB"

    columns: list[Column[NodeInfo]] = [
        Column("NAME", lambda v: v.name),
        Column("STATE", lambda v: "broken" if v.broken else v.state),
        Column("VMS", lambda v: str(v.vms)),
        Column("CPUS", lambda v: cpus(v.allocated, v.room)),
        Column("MEMORY", lambda v: memory(v.allocated, v.room)),
        Column("HYPERVISOR", lambda v: v.hypervisor),
        Column("ADDRESS", lambda v: v.address),
        Column("AGE", lambda v: age(v.since)),
        Column("SESSION", lambda v: v.session, wide=True),
        Column("STORAGE", lambda v: v.storage, wide=True),
        Column("STORAGE-ADDRESS", lambda v: v.storage_address, wide=True),
        Column("BRIDGES", lambda v: v.bridges, wide=True),
        Column("LAG", lambda v: None if v.lag_ms is None else f"{v.lag_ms}ms", wide=True),
        Column("LABELS", lambda v: v.labels, wide="LABELS" not in changed),
        Column("TAINTS", lambda v: v.taints, if_any="TAINTS" not in changed),
        Column("MESSAGE", lambda v: v.message),
    ]
    return Printer(frame.output, columns, lambda v: v.name)


async def _show(cluster: Cluster, name: str) -> NodeInfo:
    from metastack.commands.node.views import node_infos
    from metastack.commands.problem import not_found
    from metastack.commands.reading import EVERYTHING, read_world

    world = await read_world(cluster, cluster.keys.prefixes(EVERYTHING))
    for info in node_infos(world):
        if info.name == name:
            return info
    raise not_found(f"node {name}", "`metastack node list` shows the nodes that joined")


def _change(
    frame: Frame,
    name: str,
    reason: str,
    work: Callable[[Cluster, Request], Awaitable[bool]],
    done: str,
    column: str = "",
) -> None:
    from metastack.commands.request import new_request

    request = new_request(reason)

    async def both(cluster: Cluster) -> NodeInfo:
        changed = await work(cluster, request)
        note(frame, f"node {name}: {done}" if changed else f"node {name}: unchanged")
        return await _show(cluster, name)

    _printer(frame, column).one(with_cluster(frame, both))


@verb(app, "list")
def list_(
    ctx: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Keep printing changes.")] = False,
) -> None:
    """List nodes."""
    from metastack.commands.node.views import node_infos
    from metastack.commands.reading import EVERYTHING

    from .watching import print_list

    frame = frame_of(ctx)
    printer = _printer(frame)
    with_cluster(
        frame,
        lambda cluster: print_list(
            cluster, cluster.keys.prefixes(EVERYTHING), node_infos, printer, watch, lambda view: view.name
        ),
    )


@verb(app)
def show(ctx: typer.Context, name: Name) -> None:
    """Show everything about one node."""
    frame = frame_of(ctx)
    info = with_cluster(frame, lambda cluster: _show(cluster, name))
    _printer(frame).one(info, detail=True, unknown=() if info.session else _ITS_OWN_WORDS)


app.add_typer(node_token.app)
verb(app)(node_join.join)
verb(app)(fence.fence)
verb(app)(fence.unfence)


@verb(app)
def remove(
    ctx: typer.Context,
    name: Name,
    yes: Yes = False,
    reason: Reason = "",
) -> None:
    """Remove a node that never returns: it must be lost, fenced and without VMs.

    Its credentials are revoked. Its fence and its block in the storage stay. It joins again by a token.
    """
    from metastack.commands.node.remove import Removed, check_removal, remove_node, wait_revoked
    from metastack.commands.request import new_request

    from .output import Column, Printer

    frame, request = frame_of(ctx), new_request(reason)
    if not yes:
        with_cluster(frame, lambda cluster: check_removal(cluster, name))
    confirm(f"Remove node {name}? Its labels, taints and addresses are deleted.", yes)

    async def work(cluster: Cluster) -> Removed:
        return await wait_revoked(cluster, name, await remove_node(cluster, request, name))

    gone = with_cluster(frame, work)
    if frame.output not in (Output.TABLE, Output.WIDE):
        printer: Printer[Removed] = Printer(frame.output, [Column("NAME", lambda v: v.name)], lambda v: v.name)
        printer.one(gone)
        return
    print(f"node {name} removed")
    if gone.credentials == "pending":
        note(frame, f"node {name}: its credentials are taken back once `metastack pki serve` runs")
    elif gone.credentials == "revoked":
        note(frame, f"node {name}: its credentials were revoked; give ca.crl to every etcd member")
    if gone.blocked:
        lifts = f"`metastack node unfence {name} --reason WHY` lifts it"
        stays = f"stays blocked in the storage: {' '.join(gone.blocked)}; {lifts}"
        note(frame, f"node {name}: {stays}")
    if gone.pinned:
        note(
            frame, f"node {name}: {', '.join(gone.pinned)} may run only there; unpin with `metastack vm unpin`"
        )


@verb(app)
def cordon(ctx: typer.Context, name: Name, reason: Reason = "") -> None:
    """Mark a node unschedulable: it takes no new VM; its VMs keep running."""
    from metastack.commands.node.change import cordon_node

    _change(frame_of(ctx), name, reason, lambda c, d: cordon_node(c, d, name), "cordoned")


@verb(app)
def uncordon(ctx: typer.Context, name: Name, reason: Reason = "") -> None:
    """Make a node schedulable again."""
    from metastack.commands.node.change import uncordon_node

    _change(frame_of(ctx), name, reason, lambda c, d: uncordon_node(c, d, name), "uncordoned")


class _Policy(StrEnum):
    """What becomes of its VMs."""

    RELEASE = "release"
    RETURN = "return"
    LEAVE = "leave"
    CLUSTER = "cluster"


@verb(app, "on-shutdown")
def on_shutdown(
    ctx: typer.Context,
    name: Name,
    policy: Annotated[_Policy, typer.Argument(help="Policy; cluster: as `on_host_shutdown` of the cluster.")],
    reason: Reason = "",
) -> None:
    """Choose the policy for a node's VMs at a shutdown or reboot of its host."""
    from metastack.commands.node.change import shutdown_policy
    from metastack.core.model import OnHostShutdown

    chosen = None if policy is _Policy.CLUSTER else OnHostShutdown(policy.value)
    done = f"on shutdown: {policy.value}"
    _change(frame_of(ctx), name, reason, lambda c, d: shutdown_policy(c, d, name, chosen), done)


@verb(app)
def label(
    ctx: typer.Context,
    name: Name,
    labels: Annotated[list[str], typer.Argument(metavar="K=V|K-...", help="Set a label, or remove it.")],
    reason: Reason = "",
) -> None:
    """Set (K=V) and remove (K-) labels."""
    from metastack.commands.names import label_changes
    from metastack.commands.node.change import label_node

    put, drop = label_changes(list(labels))
    done = "labelled" if put else "labels removed"
    _change(frame_of(ctx), name, reason, lambda c, d: label_node(c, d, name, put, drop), done, "LABELS")


@verb(app)
def taint(
    ctx: typer.Context,
    name: Name,
    taints: Annotated[
        list[str],
        typer.Argument(metavar="K[=V][:EFFECT]|K-...", help="Set a taint (default NoSchedule), or remove it."),
    ],
    reason: Reason = "",
) -> None:
    """Set and remove taints; running VMs stay. EFFECT: NoSchedule or PreferNoSchedule."""
    from metastack.commands.node.change import taint_changes, taint_node

    change = taint_changes(list(taints))
    done = "tainted" if change.put else "taints removed"
    _change(frame_of(ctx), name, reason, lambda c, d: taint_node(c, d, name, change), done, "TAINTS")


@verb(app)
def drain(
    ctx: typer.Context,
    name: Name,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until the node is empty.")] = False,
    yes: Yes = False,
    timeout: Annotated[
        float, typer.Option("--timeout", metavar="S", min=0.1, help="Maximum wait, seconds.")
    ] = 3600.0,
    reason: Reason = "",
) -> None:
    """Empty a node: its VMs stop one by one and start on other nodes.

    The node takes no VM until `node undrain`.
    """
    from metastack.commands.node.change import drain_node
    from metastack.commands.node.drain import wait_drained
    from metastack.commands.request import new_request

    frame, request = frame_of(ctx), new_request(reason)
    if not yes:
        with_cluster(frame, lambda cluster: _show(cluster, name))
    confirm(f"Drain node {name}? Its VMs stop one by one and start on other nodes.", yes)

    drains = False

    async def work(cluster: Cluster) -> NodeInfo:
        nonlocal drains
        changed = await drain_node(cluster, request, name)
        drains = True
        note(frame, f"node {name}: draining" if changed else f"node {name}: already draining")
        if wait:
            await wait_drained(cluster, name, timeout, lambda told: note(frame, f"node {name}: {told}"))
        return await _show(cluster, name)

    try:
        info = with_cluster(frame, work)
    except KeyboardInterrupt:
        if drains:
            interrupted(frame, f"node {name}", f"the drain continues; `metastack node undrain {name}` ends it")
        raise
    _printer(frame).one(info)


@verb(app)
def undrain(ctx: typer.Context, name: Name, reason: Reason = "") -> None:
    """End the drain of a node; VMs that left it do not return."""
    from metastack.commands.node.change import undrain_node

    _change(frame_of(ctx), name, reason, lambda c, d: undrain_node(c, d, name), "no longer draining")
