"""Admission: does every VM still fit after the loss of any ``spare_nodes`` nodes?

Owns: the refusal, in words, and the guard that makes it hold against another admission.
Refuses: placing anything: it asks the nodes' own engine about a world in which the new specs are written.
A change of where a VM may run is judged too: by its pin or its rules one VM can take the place that another
one would need. It is refused only when the reserve holds now and would not after it.
Rule: asked only while ``spare_nodes`` is above 0, so that a create without it reads nothing more.

What is guaranteed: every VM that is admitted changes ``config/admission`` and compares the revision of the
judgement. So of two VMs that fit only one at a time only one is written. An admitted VM keeps its capacity
until it starts. What is not guaranteed: a node that is lost, cordoned or drained, or a setting or label that
changes, takes capacity without asking. ``doctor`` reports it then, and later VMs are judged by what is left. If
nodes are lost one after the other, a VM of the first may take what a more important one of the second needs. Of
more than 500 ways to lose that number of nodes those of the fullest are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set

from msgspec import Struct

from metastack.core.model import Admission, ClusterConfig, Power, VmId, VmSpec
from metastack.core.placement import Move, first_unfitting_loss, nowhere, with_claim, with_specs
from metastack.core.state.cluster_state import ClusterState, wants_on
from metastack.core.state.codec import encode
from metastack.core.transaction import Delete, Guard, Put, Snapshot

from ..problem import Problem, conflict
from ..reading import engine_kinds
from ..reasons import main_reason
from ..request import VMS_AT_ONCE, Cluster, Request

IGNORE = "override with --ignore-spare"
_SHOWN = 3


class Admitted(Struct, frozen=True, kw_only=True):
    """What the transaction that writes the specs must bear."""

    guards: tuple[Guard, ...] = ()
    effects: tuple[Put | Delete, ...] = ()


async def admit(
    cluster: Cluster, request: Request, config: ClusterConfig, specs: Sequence[VmSpec], ignore_spare: bool
) -> Admitted:
    """Let specs in that are about to be wanted on; raises Problem when the loss of some nodes would hurt."""
    wanted = [spec for spec in specs if spec.power is Power.ON]
    if not config.spare_nodes or not wanted:
        return Admitted()
    if ignore_spare:
        return _said(cluster, request, wanted[-1])
    snapshot = await _look(cluster, config)
    before = nowhere(_world(cluster, snapshot))
    world = with_specs(_world(cluster, snapshot), wanted, VMS_AT_ONCE)
    if (problem := refusal(world, wanted, config.spare_nodes, before)) is not None:
        raise problem
    return _let_in(cluster, request, snapshot, wanted[-1])


async def admit_place(
    cluster: Cluster, request: Request, before: VmSpec, after: VmSpec, ignore_spare: bool, moves_to: str = ""
) -> Admitted:
    """Let a VM that is wanted on have another place; raises Problem when that takes a lost node's capacity.

    ``moves_to``: it is stopped where it runs, and will be there.
    """
    config = await cluster.config()
    same = before.placement == after.placement and before.ha.priority == after.ha.priority
    if not config.spare_nodes or same:
        return Admitted()
    if ignore_spare:
        return _said(cluster, request, after)
    snapshot, vm = await _look(cluster, config), after.id
    world = with_specs(_world(cluster, snapshot), [after])
    if not wants_on(world, vm):
        return Admitted()  # it needs no capacity; `vm start` asks
    if moves_to:
        world = with_claim(world, vm, moves_to)
    if (
        problem := _displaced(nowhere(world), nowhere(_world(cluster, snapshot)), {vm}, f"vm {vm}")
    ) is not None:
        raise problem
    lost, left = first_unfitting_loss(world, config.spare_nodes)
    if not left:
        return _let_in(cluster, request, snapshot, after)
    if first_unfitting_loss(_world(cluster, snapshot), config.spare_nodes)[1]:
        # The spare capacity is lost already: a person who moves VMs to win it back is not stopped half-way.
        return Admitted()
    raise _too_little(f"vm {vm}", config.spare_nodes, lost, left, "choose another node")


async def _look(cluster: Cluster, config: ClusterConfig) -> Snapshot:
    keys = cluster.keys
    return await cluster.store.list(*keys.prefixes(engine_kinds(config)), keys.admission())


def _world(cluster: Cluster, snapshot: Snapshot) -> ClusterState:
    world = ClusterState(cluster.keys)
    world.load(snapshot)
    return world


def _let_in(cluster: Cluster, request: Request, snapshot: Snapshot, last: VmSpec) -> Admitted:
    key = cluster.keys.admission()
    token = next((e.mod_revision for e in snapshot.entries if e.key == key), 0)
    return Admitted(guards=(Guard(key, "mod", token),), effects=_said(cluster, request, last).effects)


def _said(cluster: Cluster, request: Request, last: VmSpec) -> Admitted:
    """Let in without a look: requests that looked before this one is written have to look again."""
    record = Admission(vm=str(last.id), by=request.by, request_id=request.request_id)
    return Admitted(effects=(Put(cluster.keys.admission(), encode(record)),))


def refusal(
    world: ClusterState, wanted: Sequence[VmSpec], spare_nodes: int, before: Mapping[VmId, Move]
) -> Problem | None:
    """Why these specs, which that world has already, are not let in; None: they are.

    ``before``: whom no node took without them (:func:`metastack.core.placement.nowhere`).
    """
    object = f"vm {wanted[0].id}" + (f" and {len(wanted) - 1} more" if len(wanted) > 1 else "")
    ids = {spec.id for spec in wanted}
    after = nowhere(world)
    out = [move for vm, move in after.items() if vm in ids]
    if out:
        return conflict(
            object,
            f"no capacity can be reserved for a VM that fits no node now (spare_nodes={spare_nodes}): "
            f"{in_words(out)}",
            f"free capacity, or {IGNORE}",
        )
    if (problem := _displaced(after, before, ids, object)) is not None:
        return problem
    lost, left = first_unfitting_loss(world, spare_nodes)
    if left and (few := more_spare_than_up(spare_nodes, lost)):
        return conflict(object, few[0], f"`{few[1]}`, add nodes, or {IGNORE}")
    return _too_little(object, spare_nodes, lost, left, "add a node") if left else None


def more_spare_than_up(spare_nodes: int, lost: Sequence[str]) -> tuple[str, str] | None:
    """No node would be left with capacity: what is wrong and the command that mends it; None when one is."""
    if len(lost) >= spare_nodes:
        return None
    return (
        f"spare_nodes={spare_nodes} reserves capacity for the loss of {spare_nodes} nodes, "
        f"but only {len(lost)} are up",
        f"metastack config set spare_nodes={max(0, len(lost) - 1)}",
    )


def _displaced(
    after: Mapping[VmId, Move], before: Mapping[VmId, Move], ids: Set[VmId], object: str
) -> Problem | None:
    """Somebody else who was let in, and has not started yet, would have no place any more."""
    out = [move for vm, move in after.items() if vm not in before and vm not in ids]
    if not out:
        return None
    return conflict(
        object, f"would use capacity reserved for pending VMs: {in_words(out)}", f"free capacity, or {IGNORE}"
    )


def _too_little(
    object: str, spare_nodes: int, lost: Sequence[str], left: Sequence[Move], instead: str
) -> Problem:
    return conflict(
        object,
        f"would leave too little capacity (spare_nodes={spare_nodes}): without {', '.join(lost)}, "
        f"{in_words(left)}",
        f"{instead}, or {IGNORE}; `metastack whatif --lose {','.join(lost)}` shows the present state",
    )


def in_words(left: Sequence[Move]) -> str:
    """VMs that would be left out, and why."""
    told = [f"{move.vm} would not fit ({main_reason(move.reasons)})" for move in left[:_SHOWN]]
    more = len(left) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")
