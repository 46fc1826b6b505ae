"""Which node should take a VM: filter, score, rank, explain. One pure answer for nodes, CLI and web.

Owns: the only implementation of "may this node take it" and "who tries first".
Refuses: clocks, randomness, anything that two agents at one revision could answer differently.
Rule: every refusal has a reason that a person can act on; ties fall by rendezvous hash, so equal nodes share
the work without talking.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from msgspec import Struct

from .model import NodeSpec, NodeState, Resources, VmId, VmSpec
from .world import World, wants_on


class NodeView(Struct, frozen=True, kw_only=True):
    """A node as placement sees it: what it may promise and what it has promised."""

    name: str
    session: int
    state: NodeState
    ready: bool
    room: Resources
    """Capacity after host reserve and overcommit."""
    promised: Resources
    """Sum of the specs of the VMs it answers for."""
    bridges: tuple[str, ...] = ()


class Verdict(Struct, frozen=True, kw_only=True):
    """What one node says to one VM."""

    node: str
    fits: bool
    score: float = 0.0
    """Share of the room still free after taking it, 0..1; higher is better."""
    reasons: tuple[str, ...] = ()
    """Why not; empty when it fits."""


def node_state(world: World, node: str) -> NodeState:
    """What a node is good for, from its records alone."""
    if world.alive(node) is None:
        return NodeState.LOST
    found = world.node_spec(node)
    spec = found.record if found is not None and found.record is not None else NodeSpec()
    if spec.draining:
        return NodeState.DRAINING
    return NodeState.CORDONED if spec.cordoned else NodeState.READY


def promised(world: World) -> dict[str, Resources]:
    """What each node answers for, summed over the claims."""
    sums: dict[str, list[float]] = {}
    for vm, claim in world.claims():
        if claim.record is None:
            continue
        found = world.spec(vm)
        if found is None or found.record is None:
            continue
        total = sums.setdefault(claim.record.node, [0.0, 0.0])
        total[0] += found.record.cpus
        total[1] += found.record.memory_mib
    return {node: Resources(cpus=cpus, memory_mib=int(mib)) for node, (cpus, mib) in sums.items()}


def node_views(world: World) -> list[NodeView]:
    """Every joined node with its room and its promises, sorted by name."""
    config, taken, views = world.config, promised(world), []
    for name in world.nodes():
        alive, wish = world.alive(name), world.node_spec(name)
        record = alive.record if alive is not None else None
        spec = wish.record if wish is not None and wish.record is not None else NodeSpec()
        capacity = record.capacity if record is not None else Resources()
        over_cpu = spec.overcommit_cpu if spec.overcommit_cpu is not None else config.overcommit_cpu
        over_mem = spec.overcommit_memory if spec.overcommit_memory is not None else config.overcommit_memory
        room = Resources(
            cpus=capacity.cpus * over_cpu,
            memory_mib=int(max(0, capacity.memory_mib - config.host_reserve_mib) * over_mem),
        )
        views.append(
            NodeView(
                name=name,
                session=world.session(name),
                state=node_state(world, name),
                ready=record is not None and record.ready,
                room=room,
                promised=taken.get(name, Resources()),
                bridges=record.bridges if record is not None else (),
            )
        )
    return views


def refusals(spec: VmSpec, node: NodeView) -> tuple[str, ...]:
    """Every reason why the node would not take the VM; empty when it would."""
    reasons: list[str] = []
    if spec.placement.node and spec.placement.node != node.name:
        reasons.append(f"the VM is pinned to {spec.placement.node}")
    if node.state is NodeState.LOST:
        return (*reasons, "the node is lost: its lease expired")
    if not node.ready:
        reasons.append("the node is not ready yet")
    if node.state is not NodeState.READY:
        reasons.append(f"the node is {node.state.value}")
    free_cpus = node.room.cpus - node.promised.cpus
    if spec.cpus > free_cpus + 1e-9:
        reasons.append(f"needs {spec.cpus} vCPU, {max(0.0, free_cpus):g} of {node.room.cpus:g} are free")
    free_mib = node.room.memory_mib - node.promised.memory_mib
    if spec.memory_mib > free_mib:
        reasons.append(
            f"needs {spec.memory_mib} MiB of memory, {max(0, free_mib)} of {node.room.memory_mib} are free"
        )
    for nic in spec.nics:
        if nic.bridge not in node.bridges:
            reasons.append(f"has no bridge {nic.bridge!r}")
    return tuple(reasons)


def score(spec: VmSpec, node: NodeView) -> float:
    """Spread: the smaller free share of memory and vCPU that is left after taking the VM, 0..1."""
    cpu = (node.room.cpus - node.promised.cpus - spec.cpus) / node.room.cpus if node.room.cpus else 0.0
    mib = node.room.memory_mib
    memory = (mib - node.promised.memory_mib - spec.memory_mib) / mib if mib else 0.0
    return round(max(0.0, min(cpu, memory)), 6)


def rendezvous(subject: str, node: str) -> int:
    """Highest-random-weight hash: every agent computes the same, each subject prefers another node."""
    return int.from_bytes(hashlib.blake2b(f"{subject}\0{node}".encode(), digest_size=8).digest(), "big")


def explain(spec: VmSpec, nodes: Iterable[NodeView]) -> list[Verdict]:
    """What every node says, the best first and those that refuse last."""
    verdicts = []
    for node in nodes:
        reasons = refusals(spec, node)
        fits = not reasons
        verdicts.append(
            Verdict(node=node.name, fits=fits, score=score(spec, node) if fits else 0.0, reasons=reasons)
        )
    verdicts.sort(key=lambda v: (not v.fits, -v.score, -rendezvous(spec.uuid, v.node), v.node))
    return verdicts


def _with_promise(nodes: list[NodeView], name: str, spec: VmSpec) -> list[NodeView]:
    """The same nodes, one of them having promised one VM more (a virtual assignment)."""
    out = []
    for node in nodes:
        if node.name == name:
            more = Resources(
                cpus=node.promised.cpus + spec.cpus,
                memory_mib=node.promised.memory_mib + spec.memory_mib,
            )
            node = NodeView(
                name=node.name,
                session=node.session,
                state=node.state,
                ready=node.ready,
                room=node.room,
                promised=more,
                bridges=node.bridges,
            )
        out.append(node)
    return out


def unanswered(world: World, vm: VmId) -> bool:
    """Nobody answers for the VM, or only a session that is shut out of the storage."""
    found = world.claim(vm)
    if found is None:
        return True
    return found.record is not None and found.record.session <= world.fenced_through(found.record.node)


def waiting(world: World) -> list[VmId]:
    """VMs that should run and that nobody answers for, the oldest wish first."""
    found = [(spec.mod, vm) for vm, spec in world.specs() if unanswered(world, vm) and wants_on(world, vm)]
    return [vm for _, vm in sorted(found)]


def turns(world: World, nodes: list[NodeView] | None = None, limit: int = 512) -> dict[VmId, list[str]]:
    """For each waiting VM the nodes in the order in which they should try, best first.

    Every earlier waiting VM is virtually assigned to its best node before the next one is ranked, so that a
    burst spreads as a central scheduler would spread it. ``limit`` bounds the work of one call; what is
    beyond it is ranked when those before it are placed. ``nodes``: the world's, if they are at hand.
    """
    nodes = node_views(world) if nodes is None else nodes
    out: dict[VmId, list[str]] = {}
    # What fits nowhere now fits nowhere further down either, as promises only grow. It must not count: VMs
    # that no node can take would keep every younger one waiting.
    hopeless: set[tuple[object, ...]] = set()
    for vm in waiting(world):
        found = world.spec(vm)
        if found is None or found.record is None:
            continue
        spec = found.record
        shape = (spec.placement, spec.cpus, spec.memory_mib, frozenset(nic.bridge for nic in spec.nics))
        if shape in hopeless:
            continue
        order = [v.node for v in explain(spec, nodes) if v.fits]
        if not order:
            hopeless.add(shape)
            continue
        out[vm] = order
        if len(out) == limit:
            break
        nodes = _with_promise(nodes, order[0], spec)
    return out


def successors(nodes: list[NodeView], subject: str) -> list[str]:
    """Who should do a job that only one needs to do, best first: a release, a fence, a disk's removal."""
    ready = [n.name for n in nodes if n.ready and n.state is not NodeState.LOST]
    return sorted(ready, key=lambda name: -rendezvous(subject, name))
