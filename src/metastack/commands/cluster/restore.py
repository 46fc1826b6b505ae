"""Letting a restored etcd be used: what a person is told first, and the transaction that raises the generation.

Owns: the plan of a restore, and writing it. Refuses: starting, stopping or fencing anything; agents do that, in
the new generation, by the rules of core/protocol/restored.
Rule: it says what it needs before it asks for it: that nothing else answers as this cluster's etcd, and that no
host runs guests that is neither listed here nor switched off.
"""

from __future__ import annotations

from msgspec import Struct

from metastack.core.model import Generation, Refusal, VmId
from metastack.core.protocol.restored import raise_generation, waits_for
from metastack.core.state.cluster_state import ClusterState, Seen
from metastack.core.state.keys import Kind

from .. import names
from ..problem import usage
from ..reading import read_world
from ..request import Cluster, Plan, Request, commit, readable

NEEDED = (Kind.GENERATION, Kind.CLAIM, Kind.NODE_FACTS, Kind.NODE_ALIVE, Kind.FENCE, Kind.REFUSAL, Kind.VM_SPEC)


class RestoreView(Struct, kw_only=True):
    """A restore: what it is about to do, or what it did."""

    generation: int
    """That it raises to, or raised to."""
    before: int
    refusing: list[str]
    """Nodes that do not believe this etcd, and said so."""
    unaware: list[str]
    """Nodes with a session: they noticed nothing. Their sessions end."""
    waits_for: list[str]
    """Nodes that have to come back, or to be fenced by hand, before anything is started."""
    runs_on: list[str]
    """Guests whose claims this etcd has just so: they never stop."""
    ends: list[str]
    """Guests that this etcd does not know, or knows elsewhere: killed when their node is back. Disks stay."""


def restore_view(world: ClusterState) -> RestoreView:
    """What raising the generation would do to this world. Pure."""
    refusals = _refusals(world)
    runs_on: list[str] = []
    ends: list[str] = []
    for refusal in refusals:
        for one in refusal.running:
            project, _, name = one.vm.partition("/")
            claim = world.claim(VmId(project, name)) if name else None
            held = claim.record if claim is not None else None
            proven = held is not None and (held.node, held.uuid, held.epoch) == (
                refusal.name,
                one.uuid,
                one.epoch,
            )
            (runs_on if proven else ends).append(f"{one.vm} on {refusal.name}")
    return RestoreView(
        generation=max([world.generation, *(refusal.generation for refusal in refusals)]) + 1,
        before=world.generation,
        refusing=[f"{refusal.name}: {refusal.why}" for refusal in refusals],
        unaware=[node for node in world.nodes() if world.alive(node) is not None],
        waits_for=sorted({*world.nodes(), *(refusal.name for refusal in refusals)}),
        runs_on=sorted(runs_on),
        ends=sorted(ends),
    )


async def look_at_restore(cluster: Cluster) -> RestoreView:
    """What a restore would do now; raises Problem when the generation cannot be read."""
    world = await read_world(cluster, cluster.keys.prefixes(NEEDED))
    _generation(world)
    return restore_view(world)


def check_restore_reason(reason: str) -> None:
    """Raise Problem when there is no reason; before a person is asked anything."""
    names.reason(reason)
    if not reason:
        raise usage("cluster", "a restore needs a reason", 'give --reason "which backup, and why"')


async def restore_cluster(cluster: Cluster, request: Request) -> RestoreView:
    """Raise the generation above every one that this etcd or a refusing node knows; what it did."""
    check_restore_reason(request.reason)

    async def look() -> Plan[RestoreView]:
        world = await read_world(cluster, cluster.keys.prefixes(NEEDED))
        view = restore_view(world)
        about = [(refusal, world.facts(refusal.name)) for refusal in _refusals(world)]
        change = raise_generation(cluster.keys, _generation(world), view.generation, about)
        return Plan(
            guards=change.guards,
            effects=change.effects,
            what="cluster.restore",
            object="cluster",
            message=f"generation {view.generation}",
            answer=view,
        )

    return await commit(cluster, request, look)


async def still_waiting(cluster: Cluster) -> tuple[str, ...]:
    """Nodes that a restored cluster still waits for."""
    return waits_for(await read_world(cluster, cluster.keys.prefixes(NEEDED)))


def _generation(world: ClusterState) -> Seen[Generation] | None:
    found = world.generation_seen()
    if found is not None:
        readable(
            found, "generation", "rewrite it with etcdctl, with a number above every generation used before"
        )
    return found


def _refusals(world: ClusterState) -> list[Refusal]:
    found = [world.refusal(names_[0]) for names_ in world.names(Kind.REFUSAL)]
    return sorted((f.record for f in found if f is not None and f.record is not None), key=lambda r: r.name)
