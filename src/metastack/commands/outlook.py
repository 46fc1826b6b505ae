"""What if: nodes lost, nodes added. Does everything still fit?

Owns: what is printed of it. Refuses: an answer of its own: the nodes' own board gives it.
Rule: a node that is thought of has what every living node has (bridges, architecture, processor flags), and no
more, so that the answer is never too good.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from metastack.core.model import NodeState, Resources
from metastack.core.placement import Move, NodeView, whatif, without_room
from metastack.core.world import World

from . import names
from .problem import not_found, usage
from .reasons import main_reason

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
    deleted: bool = False


class NodeLoad(Struct, kw_only=True):
    """A node as it would be then."""

    name: str
    state: str
    room: Resources
    promised: Resources


class Outlook(Struct, kw_only=True):
    """What would be."""

    fits: bool
    summary: str
    lost: list[str]
    added: list[str]
    moves: list[MoveView]
    left_out: int
    nodes: list[NodeLoad]


def outlook(world: World, lost: Sequence[str], more: Sequence[NodeView]) -> Outlook:
    """The world without those nodes and with these. Raises Problem for a node that never joined."""
    for name in lost:
        if names.name("--lose", name) not in world.nodes():
            raise not_found(f"node {name}", "`metastack node list` shows the nodes that joined")
    found = whatif(world, lost=lost, more=more)
    return _outlook(found.moves, found.nodes, list(lost), [view.name for view in more])


def any_loss(world: World, count: int) -> Outlook:
    """The first loss of so many nodes after which something has no room; without one, the world as it is.

    VMs that could run nowhere else whatever the room (a pin, one a zone) do not count.
    """
    if not 1 <= count <= 64:
        raise usage("--lose-any", f"{count} is out of range", "1 to 64")
    lost, left = without_room(world, count)
    found = whatif(world, lost=lost)
    if not left:
        view = _outlook((), found.nodes, [], [])
        view.summary = (
            f"the loss of any {count} of the nodes leaves room for what runs; "
            "a VM that could run nowhere else does not count: `metastack whatif --lose NODE` names it"
        )
        return view
    return _outlook(found.moves, found.nodes, list(lost), [])


def _outlook(moves: Sequence[Move], nodes: Sequence[NodeView], lost: list[str], added: list[str]) -> Outlook:
    views = [_move(move) for move in moves]
    out = [view for view in views if view.after is None]
    gone = f"without {', '.join(lost)}" if lost else f"with {len(added)} more" if added else "as it is"
    if out:
        summary = (
            f"{gone}, {len(out)} VMs would be left out" if len(out) > 1 else f"{gone}, 1 VM would be left out"
        )
    else:
        summary = f"{gone}, everything fits" + (f"; {len(views)} VMs would start elsewhere" if views else "")
    return Outlook(
        fits=not out,
        summary=summary,
        lost=lost,
        added=added,
        moves=views,
        left_out=len(out),
        nodes=[
            NodeLoad(name=node.name, state=node.state.value, room=node.room, promised=node.promised)
            for node in nodes
        ],
    )


def _move(move: Move) -> MoveView:
    return MoveView(
        name=move.vm.name,
        project=move.vm.project,
        before=move.before or None,
        after=move.after or None,
        reason=None if move.after else main_reason(move.reasons),
        reasons={node: list(why) for node, why in sorted(move.reasons.items())},
    )


def new_nodes(world: World, count: int, cpus: float, memory_mib: int, labels: dict[str, str]) -> list[NodeView]:
    """Nodes to think of: machines with so many vCPU and so much memory, before reserve and overcommit."""
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
