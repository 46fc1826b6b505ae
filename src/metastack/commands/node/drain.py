"""Waiting until a node is empty, and saying what cannot leave it.

Owns: the progress of a drain, and when waiting on is no use. Refuses: moving anything: the node does that.
Rule: what goes next and what cannot go is asked of the function that the draining node acts on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from metastack.core.placement import Departure, PlacementEngine, departures
from metastack.core.protocol.maintenance import paused
from metastack.core.state.cluster_state import ClusterState

from ..problem import Code, Problem
from ..reading import engine_kinds, follow
from ..reasons import main_reason
from ..request import Cluster

PATIENCE_S: Final = 5.0
"""Nothing can leave for so long, and nothing happens: somebody has to act."""
_SHOWN: Final = 5


async def wait_drained(cluster: Cluster, node: str, timeout_s: float, told: Callable[[str], None]) -> None:
    """Until no VM is left on the node. Raises Problem when the rest cannot go anywhere, or at the timeout."""
    wanted = cluster.keys.prefixes(engine_kinds(await cluster.config()))
    before = ""
    left: list[Departure] = []
    try:
        async with asyncio.timeout(timeout_s), follow(cluster, wanted) as follower:
            while True:
                there, left, said = _look(follower.world, node)
                if not there:
                    told("the node is empty")
                    return
                if said != before:
                    told(said)
                    before = said
                stuck = len(left) == there and not any(one.to for one in left)
                patience = asyncio.timeout(PATIENCE_S if stuck else None)
                try:
                    async with patience:
                        await follower.changed()
                except TimeoutError:
                    if patience.expired():
                        raise _stuck(node, left) from None
                    raise
    except TimeoutError:
        words = f": {_in_words(left)}" if any(not one.to for one in left) else ""
        raise Problem(
            Code.TIMEOUT,
            f"node {node}",
            f"is not empty after {timeout_s:g} s: {before}{words}",
            f"the drain continues by itself; `metastack node drain {node} --wait --yes` waits again",
        ) from None


def _look(world: ClusterState, node: str) -> tuple[int, list[Departure], str]:
    """How many VMs the node owns, those that are to leave, and both in words."""
    engine = PlacementEngine(world)
    there, left = len(engine.on(node)), departures(engine, node)
    going, staying = [one for one in left if one.to], [one for one in left if not one.to]
    said = f"{there} VMs left" if there != 1 else "1 VM left"
    if going:
        said += f"; next {going[0].vm}, which fits {going[0].to}"
    if left and (why := paused(world)):
        said += f"; {why}: no VM leaves before it ends"
    if staying:
        said += f"; cannot move: {_in_words(staying)}"
    return there, left, said


def _in_words(left: list[Departure]) -> str:
    staying = [one for one in left if not one.to]
    told = [f"{one.vm} ({main_reason(one.reasons)})" for one in staying[:_SHOWN]]
    return ", ".join(told) + (f" and {len(staying) - _SHOWN} more" if len(staying) > _SHOWN else "")


def _stuck(node: str, left: list[Departure]) -> Problem:
    who = (
        f"{len(left)} VMs fit no other node and keep running"
        if len(left) > 1
        else "1 VM fits no other node and keeps running"
    )
    return Problem(
        Code.FAILED,
        f"node {node}",
        f"{who}: {_in_words(left)}",
        f"free capacity or stop them; the drain continues by itself, `metastack node undrain {node}` ends it",
    )
