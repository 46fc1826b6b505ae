"""What if: with nodes lost or added, does everything still fit, what moves where, what is left out?

Owns: answers about worlds that are not. Refuses: a second implementation: it is the nodes' own engine, made of
the same records with some thought away and some added.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations

from msgspec import Struct

from ..model import NodeState, VmId
from ..state.cluster_state import ClusterState
from .engine import PlacementEngine
from .explain import explain
from .hypothetical import lacks_only_capacity, suppose, without_nodes
from .nodes import NodeView, node_state
from .start_order import awaited, port_unanswered

MOST_CASES = 500
"""Combinations of lost nodes that are tried one by one; of more, those that hold the most."""


class Move(Struct, frozen=True, kw_only=True):
    """One VM that would not be where it is."""

    vm: VmId
    before: str
    """Node that owns it now; empty: it waits."""
    after: str
    """Empty: nobody would take it."""
    reasons: dict[str, tuple[str, ...]] = {}
    """Of each node, when nobody would take it."""
    behind: str = ""
    """Why no node would start it although there is capacity: the VM that it starts after would not be up."""


class Outcome(Struct, frozen=True, kw_only=True):
    """What would be."""

    moves: tuple[Move, ...]
    nodes: tuple[NodeView, ...]
    """As they would be then, with what they would have promised."""
    already: frozenset[VmId] = frozenset()
    """VMs that no node takes in the world as it is: nothing that is thought of here put them out."""

    @property
    def left_out(self) -> tuple[Move, ...]:
        """VMs that no node would take, whatever the cause."""
        return tuple(move for move in self.moves if not move.after)

    @property
    def put_out(self) -> tuple[Move, ...]:
        """VMs that no node would take then, and one takes now."""
        return tuple(move for move in self.left_out if move.vm not in self.already)

    @property
    def fits(self) -> bool:
        return not self.put_out


def whatif(world: ClusterState, *, lost: Iterable[str] = (), more: Iterable[NodeView] = ()) -> Outcome:
    """The world without those nodes and with these: who would be where.

    VMs that wait already are among the moves, so that what no node would take is seen with or without a loss;
    also those that wait only for others to be up. ``already`` says which of these no node takes even now. First
    every VM gets its capacity; then a VM that starts after one that would not be up is told not to start.
    """
    gone, new = frozenset(lost), list(more)
    base = suppose(world)
    then = suppose(world, gone, new) if new else without_nodes(base, gone) if gone else base
    return _outcome(then, _nowhere(base) | _behind(base).keys(), _behind(then))


def _behind(engine: PlacementEngine) -> dict[VmId, str]:
    """VMs with capacity that would not start, and what each waits for. A VM that starts will come up."""
    found: dict[VmId, str] = {}
    gated = [wait for wait in engine.waiting.values() if wait.head and wait.spec.ha.start_after]
    grown = True
    while grown:
        grown = False
        for wait in sorted((wait for wait in gated if wait.vm not in found), key=lambda one: one.line):
            for other in awaited(engine.world, wait.vm, wait.spec):
                before = engine.waiting.get(other)
                if before is None:
                    why = "whose readiness port does not answer" if port_unanswered(engine.world, other) else ""
                elif not before.head:
                    why = "which fits no node"
                else:
                    why = "which would not start" if other in found else ""
                if why:
                    found[wait.vm], grown = f"starts after {other}, {why}", True
                    break
    return found


def _nowhere(engine: PlacementEngine) -> frozenset[VmId]:
    return frozenset(wait.vm for wait in engine.waiting.values() if not wait.head)


def _outcome(
    engine: PlacementEngine, already: frozenset[VmId], behind: Mapping[VmId, str] | None = None
) -> Outcome:
    world, moves, behind = engine.world, [], behind or {}
    for wait in sorted(engine.waiting.values(), key=lambda one: one.line):
        claim = world.claim(wait.vm)
        before = claim.record.node if claim is not None and claim.record is not None else ""
        reasons = {} if wait.head else {v.node: v.reasons for v in explain(engine, wait.spec)}
        why = behind.get(wait.vm, "")
        after = wait.head[0] if wait.head and not why else ""
        moves.append(Move(vm=wait.vm, before=before, after=after, reasons=reasons, behind=why))
    nodes = tuple(engine.nodes[name] for name in sorted(engine.nodes))
    return Outcome(moves=tuple(moves), nodes=nodes, already=already)


def going(world: ClusterState) -> frozenset[str]:
    """Nodes that are lost, whether they are shut out by now or not, or draining: what is on them has to go
    somewhere, and capacity is kept for that."""
    states = {name: node_state(world, name) for name in world.nodes()}
    return frozenset(n for n, state in states.items() if state in (NodeState.LOST, NodeState.DRAINING))


def nowhere(world: ClusterState) -> dict[VmId, Move]:
    """VMs that no node would take once those nodes are gone, and why."""
    return {move.vm: move for move in _outcome(suppose(world, going(world)), frozenset()).left_out}


def first_unfitting_loss(world: ClusterState, spare_nodes: int) -> tuple[tuple[str, ...], tuple[Move, ...]]:
    """The first loss of ``spare_nodes`` nodes after which something would be left out that fits now, and what.

    Both empty when every such loss leaves capacity. What is on nodes that are lost or draining has to go
    somewhere first (:func:`going`). A VM that could not run elsewhere whatever the capacity (a pin, a label
    that no other node has, one a zone) does not count: no spare node would help.
    """
    engine = suppose(world, going(world))
    up = [view for view in engine.nodes.values() if view.ready and view.state in ("ready", "cordoned")]
    today = _nowhere(engine)
    engine.keep_promises()
    for lost in _cases(up, spare_nodes):
        if not any(engine.on(name) for name in lost):
            continue
        then = without_nodes(engine, lost)
        out = {w.vm for w in then.waiting.values() if not w.head and w.vm not in today}
        # Without any node it is capacity that is missing, and no node could be named for it.
        short = {vm for vm in out if len(lost) == len(up) or lacks_only_capacity(then, then.waiting[vm].spec)}
        if short:
            return lost, tuple(move for move in _outcome(then, today).put_out if move.vm in short)
    return (), ()


def _cases(nodes: list[NodeView], count: int) -> Iterator[tuple[str, ...]]:
    """Which nodes to lose, the fullest first."""
    fullest = sorted(nodes, key=lambda n: (-n.promised.memory_mib, -n.promised.cpus, n.name))
    names = [node.name for node in fullest]
    for number, case in enumerate(combinations(names, min(count, len(names)))):
        if number == MOST_CASES:
            return
        yield case
