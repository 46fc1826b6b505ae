"""Nodes as placement sees them: what each may promise, has promised, and is."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from functools import lru_cache

from msgspec import Struct, field

from ..model import NodeSpec, NodeState, Resources, Taint, VmSpec
from ..state.cluster_state import ClusterState

_RANKS = 10_000
"""Number of ranks that are kept."""


class NodeView(Struct, kw_only=True):
    """A node as placement sees it. An engine changes ``promised`` as VMs come and go."""

    name: str
    session: int = 0
    state: NodeState = NodeState.READY
    ready: bool = True
    room: Resources = Resources()
    """Capacity after host reserve and overcommit."""
    promised: Resources = Resources()
    """Sum of the specs of the VMs that it owns."""
    bridges: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    taints: tuple[Taint, ...] = ()
    arch: str = ""
    """Empty: the node does not say."""
    cpu_features: frozenset[str] = frozenset()
    storage_ok: bool = True
    lag_ms: int = 0
    images: dict[str, int] = field(default_factory=dict)
    """VMs on it, by the image they were cloned from; counted by an engine whose weights ask for it."""

    @property
    def overfull(self) -> bool:
        """It has promised more than it has."""
        room, taken = self.room, self.promised
        return (
            taken.cpus > room.cpus
            or taken.memory_mib > room.memory_mib
            or any(n > room.other.get(what, 0) for what, n in taken.other.items())
        )

    def domain(self, topology: str) -> str:
        """Which domain of a topology the node is in; empty: it has no such label."""
        return self.name if topology == "node" else self.labels.get(topology, "")


def node_state(world: ClusterState, node: str) -> NodeState:
    """What a node is good for, from its records alone."""
    alive = world.alive(node)
    if alive is None:
        return NodeState.LOST
    if alive.record is not None and alive.record.leaving:
        return NodeState.LEAVING
    found = world.node_spec(node)
    spec = found.record if found is not None and found.record is not None else NodeSpec()
    if spec.draining:
        return NodeState.DRAINING
    return NodeState.CORDONED if spec.cordoned else NodeState.READY


def node_view(world: ClusterState, name: str) -> NodeView:
    """One node with its capacity, as if it had promised nothing."""
    config, alive, desired = world.config, world.alive(name), world.node_spec(name)
    record = alive.record if alive is not None else None
    spec = desired.record if desired is not None and desired.record is not None else NodeSpec()
    view = NodeView(name=name, session=world.session(name), state=node_state(world, name), labels=spec.labels)
    view.taints = spec.taints
    if record is None:
        view.ready = False
        return view
    capacity = record.capacity
    over_cpu = spec.overcommit_cpu if spec.overcommit_cpu is not None else config.overcommit_cpu
    over_mem = spec.overcommit_memory if spec.overcommit_memory is not None else config.overcommit_memory
    view.ready = record.ready
    view.room = Resources(
        cpus=capacity.cpus * over_cpu,
        memory_mib=int(max(0, capacity.memory_mib - config.host_reserve_mib) * over_mem),
        other={what: int(n * spec.overcommit.get(what, 1.0)) for what, n in capacity.other.items()},
    )
    view.bridges, view.arch, view.storage_ok = record.bridges, record.arch, record.storage_ok
    view.cpu_features, view.lag_ms = frozenset(record.cpu_features), record.lag_ms
    return view


def join(nodes: dict[str, NodeView], node: NodeView) -> None:
    """One more in a dictionary that others hold, too; it stays sorted by name."""
    rest = {**nodes, node.name: node}
    nodes.clear()
    nodes.update(sorted(rest.items()))


def promised(world: ClusterState) -> dict[str, Resources]:
    """What each node owns, summed over the claims."""
    sums: dict[str, Resources] = {}
    for vm, claim in world.claims():
        found = world.spec(vm)
        if claim.record is None or found is None or found.record is None:
            continue
        node = claim.record.node
        sums[node] = plus(sums.get(node, Resources()), found.record)
    return sums


def node_views(world: ClusterState) -> list[NodeView]:
    """Every joined node with its capacity and its promises, sorted by name."""
    taken, views = promised(world), []
    for name in world.nodes():
        view = node_view(world, name)
        view.promised = taken.get(name, view.promised)
        views.append(view)
    return views


def plus(amount: Resources, spec: VmSpec, sign: int = 1) -> Resources:
    """An amount and what one VM needs on top of it (or, with sign -1, gives back)."""
    other = amount.other
    if spec.resources:
        keys = sorted(other.keys() | spec.resources.keys())
        other = {what: other.get(what, 0) + sign * spec.resources.get(what, 0) for what in keys}
    return Resources(
        cpus=amount.cpus + sign * spec.cpus, memory_mib=amount.memory_mib + sign * spec.memory_mib, other=other
    )


def on_ring(text: str) -> int:
    """Where a node or a VM lies on the ring that settles ties: the same for every agent."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


@lru_cache(maxsize=1 << 14)
def ring(node: str) -> int:
    """:func:`on_ring` of a node, remembered; VMs are too many for that."""
    return on_ring(node)


@lru_cache(maxsize=1 << 14)
def rendezvous(subject: str, node: str) -> int:
    """Highest-random-weight hash: every agent computes the same, each subject prefers another node."""
    return int.from_bytes(hashlib.blake2b(f"{subject}\0{node}".encode(), digest_size=8).digest(), "big")


class Successors:
    """The node that should do a job that only one needs to do: a release, a fence, a disk's removal.

    Ranks are kept for as long as the same nodes are ready: when many nodes vanish, every other one ranks itself
    for each of them, after each of their fences.
    """

    def __init__(self, nodes: Iterable[NodeView]) -> None:
        self.ready = frozenset(n.name for n in nodes if n.ready and n.state is not NodeState.LOST)
        self._ranks: dict[tuple[str, str], int] = {}

    def rank(self, subject: str, node: str) -> int | None:
        """How many come before that node; None when it is not ready."""
        if node not in self.ready:
            return None
        rank = self._ranks.get((subject, node))
        if rank is None:
            mine = rendezvous(subject, node)
            rank = sum(1 for name in self.ready if rendezvous(subject, name) > mine)
            if len(self._ranks) >= _RANKS:
                self._ranks.clear()
            self._ranks[subject, node] = rank
        return rank
