"""Admission: is there still room for everybody after the loss of any ``spare_nodes`` nodes?

Owns: the refusal, in words, and the guard that makes it hold against another admission.
Refuses: placing anything: it asks the nodes' own board about a world in which the new specs are written.
Rule: asked only while ``spare_nodes`` is above 0, so that a create without it reads nothing more.

What is guaranteed: every VM that is let in changes ``config/admission`` and compares the revision that the
judgement was made at, so of two that fit only one at a time only one is written. What is not: a node that is
lost, cordoned or drained, or a setting that is changed, takes room without asking; ``doctor`` says so then.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from metastack.core.change import Delete, Guard, Put
from metastack.core.codec import encode
from metastack.core.model import Admission, ClusterConfig, Power, VmSpec
from metastack.core.placement import Move, whatif, with_specs, without_room
from metastack.core.world import World

from .deed import Cluster, Deed
from .problem import Problem, conflict
from .reading import board_kinds, prefixes
from .reasons import main_reason

IGNORE = "say --ignore-spare to do it all the same"
_SHOWN = 3


class Admitted(Struct, frozen=True, kw_only=True):
    """What the transaction that writes the specs must bear."""

    guards: tuple[Guard, ...] = ()
    effects: tuple[Put | Delete, ...] = ()


async def admit(
    cluster: Cluster, deed: Deed, config: ClusterConfig, specs: Sequence[VmSpec], ignore_spare: bool
) -> Admitted:
    """Let specs in that are about to be wanted on; raises Problem when the loss of some nodes would hurt."""
    wanted = [spec for spec in specs if spec.power is Power.ON]
    if not config.spare_nodes or ignore_spare or not wanted:
        return Admitted()
    keys = cluster.keys
    snapshot = await cluster.store.list(*prefixes(keys, board_kinds(config)), keys.admission())
    token = next((e.mod_revision for e in snapshot.entries if e.key == keys.admission()), 0)
    world = World(keys)
    world.load(snapshot)
    if (problem := refusal(with_specs(world, wanted), wanted, config.spare_nodes)) is not None:
        raise problem
    last = Admission(vm=str(wanted[-1].id), by=deed.by, request_id=deed.request_id)
    return Admitted(
        guards=(Guard(keys.admission(), "mod", token),), effects=(Put(keys.admission(), encode(last)),)
    )


def refusal(world: World, wanted: Sequence[VmSpec], spare_nodes: int) -> Problem | None:
    """Why these specs, which that world has already, are not let in; None: they are."""
    object = f"vm {wanted[0].id}" + (f" and {len(wanted) - 1} more" if len(wanted) > 1 else "")
    ids = {spec.id for spec in wanted}
    nowhere = [move for move in whatif(world).left_out if move.vm in ids]
    if nowhere:
        return conflict(
            object,
            f"no room is held for a VM that no node takes now (spare_nodes={spare_nodes}): {in_words(nowhere)}",
            f"make room, or {IGNORE}",
        )
    lost, left = without_room(world, spare_nodes)
    if not left:
        return None
    return conflict(
        object,
        f"would leave too little room (spare_nodes={spare_nodes}): without {', '.join(lost)}, {in_words(left)}",
        f"add a node, or {IGNORE}; `metastack whatif --lose {','.join(lost)}` shows how it is now",
    )


def in_words(left: Sequence[Move]) -> str:
    """Who would be left out, and why."""
    told = [f"{move.vm} would not fit ({main_reason(move.reasons)})" for move in left[:_SHOWN]]
    more = len(left) - len(told)
    return "; ".join(told) + (f"; and {more} more" if more else "")
