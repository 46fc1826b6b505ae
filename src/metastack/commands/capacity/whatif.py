"""What if: nodes lost, nodes added. Does everything still fit?

Owns: what is printed of it. Refuses: an answer of its own: the nodes' own engine gives it.
Rule: a node that is thought of has what every living node has (bridges, architecture, processor flags), and no
more, so that the answer is never too good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from metastack.core.model import NodeState, Resources
from metastack.core.placement import Move, NodeView, Outcome, first_unfitting_loss, going, whatif
from metastack.core.state.cluster_state import ClusterState

from .. import names
from ..problem import not_found, usage
from ..reasons import main_reason

MOST_ADDED = 1000


class MoveView(Struct, kw_only=True):
    """One VM that would not be where it is."""

    name: str
    project: str
    before: str | None
    """Null: it waits now."""
    after: str | None
    """Null: nobody would take it."""
    reason: str | None = None
    """Why nobody, in short."""
    reasons: dict[str, list[str]] = {}
    """Of each node."""
    pending_already: bool = False
    """Nobody takes it now either: what is thought of here did not put it out."""
    deleted: bool = False


class NodeLoad(Struct, kw_only=True):
    """A node as it would be then."""

    name: str
    state: str
    room: Resources
    promised: Resources


class WhatIf(Struct, kw_only=True):
    """What would be."""

    fits: bool
    """Nothing would be put out that has a place now."""
    summary: str
    lost: list[str]
    added: list[str]
    moves: list[MoveView]
    left_out: int
    """VMs that have a place now, and would have none."""
    pending_already: int
    """VMs that nobody takes now, and nobody would then."""
    nodes: list[NodeLoad]


def outlook(world: ClusterState, lost: Sequence[str], more: Sequence[NodeView]) -> WhatIf:
    """The world without those nodes and with these. Raises Problem for a node that never joined."""
    for name in lost:
        if names.name("--lose", name) not in world.nodes():
            raise not_found(f"node {name}", "`metastack node list` shows the nodes that joined")
    found = whatif(world, lost=lost, more=more)
    return _outlook(found, list(lost), [view.name for view in more])


def any_loss(world: ClusterState, count: int) -> WhatIf:
    """The first loss of that number of nodes after which a VM does not fit; without one, the world as it is.

    VMs that could run nowhere else whatever the capacity (a pin, one a zone) do not count.
    """
    if not 1 <= count <= 64:
        raise usage("--lose-any", f"{count} is out of range", "1 to 64")
    if count > (there := len(world.nodes())):
        raise usage("--lose-any", f"{count} is more than the number of nodes", f"1 to {there}")
    lost, left = first_unfitting_loss(world, count)
    # What is on nodes that are lost or draining has to go, too: without that it might seem to fit.
    gone = sorted({*lost, *going(world)}) if left else []
    found = whatif(world, lost=gone)
    if not left:
        view = _outlook(replace(found, moves=tuple(m for m in found.left_out if m.vm in found.already)), [], [])
        view.summary = (
            f"the loss of any {count} of the nodes leaves capacity for all running VMs; "
            "VMs that fit only one node do not count: `metastack whatif --lose NODE` names them"
        ) + _pending(view.pending_already)
        return view
    return _outlook(found, gone, [])


def _outlook(found: Outcome, lost: list[str], added: list[str]) -> WhatIf:
    views = [_move(move, move.vm in found.already) for move in found.moves]
    again = sum(view.after is not None and view.before is not None for view in views)
    first = sum(view.after is not None and view.before is None for view in views)
    out = len(found.put_out)
    still = sum(view.after is None for view in views) - out
    gone = f"without {', '.join(lost)}" if lost else f"with {len(added)} more" if added else "at present"
    if out:
        summary = f"{gone}, {_vms(out)} would not fit"
    elif still:
        summary = f"{gone}, no other VM would be left without a node"
    else:
        summary = f"{gone}, everything fits"
    if again and not out:
        summary += f"; {_vms(again)} would start on another node"
    if first and not out:
        summary += (
            f"; {_vms(first)} that are pending would start" if first > 1 else "; 1 pending VM would start"
        )
    summary += _pending(still)
    return WhatIf(
        fits=found.fits,
        summary=summary,
        lost=lost,
        added=added,
        moves=views,
        left_out=out,
        pending_already=still,
        nodes=[
            NodeLoad(name=node.name, state=node.state.value, room=node.room, promised=node.promised)
            for node in found.nodes
        ],
    )


def _pending(count: int) -> str:
    if not count:
        return ""
    return f"; {_vms(count)} {'is' if count == 1 else 'are'} already pending and would stay pending"


def _vms(count: int) -> str:
    return "1 VM" if count == 1 else f"{count} VMs"


def _move(move: Move, already: bool) -> MoveView:
    return MoveView(
        name=move.vm.name,
        project=move.vm.project,
        before=move.before or None,
        after=move.after or None,
        reason=None if move.after else move.behind or main_reason(move.reasons),
        reasons={node: list(why) for node, why in sorted(move.reasons.items())},
        pending_already=already and not move.after,
    )


def new_nodes(
    world: ClusterState, count: int, cpus: float, memory_mib: int, labels: dict[str, str]
) -> list[NodeView]:
    """Nodes to think of: machines with these vCPU and this memory, before reserve and overcommit."""
    if not 1 <= count <= MOST_ADDED:
        raise usage("--add", f"{count} is out of range", f"1 to {MOST_ADDED}")
    if not 0 < cpus <= 1 << 20:
        raise usage("--cpus", f"{cpus:g} is out of range", "such as 64")
    config = world.config
    living = (world.alive(name) for name in world.nodes())
    there = [alive.record for alive in living if alive is not None and alive.record is not None]
    archs = {node.arch for node in there}
    arch = next(iter(archs)) if len(archs) == 1 else ""
    room = Resources(
        cpus=cpus * config.overcommit_cpu,
        memory_mib=int(max(0, memory_mib - config.host_reserve_mib) * config.overcommit_memory),
    )
    taken, found = set(world.nodes()), list[NodeView]()
    for name in (f"new-{n}" for n in range(1, count + len(taken) + 1)):
        if name in taken or len(found) == count:
            continue
        found.append(
            NodeView(
                name=name,
                state=NodeState.READY,
                room=room,
                bridges=tuple(_common(node.bridges for node in there)),
                labels=dict(labels),
                arch=arch,
                cpu_features=frozenset(_common(node.cpu_features for node in there)),
            )
        )
    return found


def _common(sets: Iterable[Iterable[str]]) -> list[str]:
    """What all of them have."""
    all_of_them = [set(one) for one in sets]
    return sorted(set.intersection(*all_of_them)) if all_of_them else []
