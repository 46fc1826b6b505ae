"""Quality: how good the places of all VMs are together, by the aim that the settings' weights stand for.

Owns: the figure that a scheduler and a rebalancing try to improve. Refuses: saying where one VM should go; the
engine's scores do that.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import sqrt

from msgspec import Struct

from ..model import NodeState, Weights
from .nodes import NodeView

LEAST_STDEV = 0.01
"""Evenness that differs by less is the same: one percentage point of the used share."""


class Objective(Struct, frozen=True, kw_only=True):
    """How full the nodes are that take VMs."""

    aim: str
    """``spread`` (even) or ``pack`` (empty nodes): the larger of the two weights."""
    nodes: int
    empty_nodes: int
    mean_share: float
    """Of what the nodes have, of vCPU or memory, whichever is used more on the node; 0..1."""
    stdev_share: float
    """Standard deviation of that over the nodes."""

    def better_than(self, other: Objective) -> bool:
        """By more than nothing, in what the weights aim at."""
        if self.aim == "pack":
            return self.empty_nodes > other.empty_nodes
        return self.stdev_share < other.stdev_share - LEAST_STDEV


def aim(weights: Weights) -> str:
    """What the weights want of all VMs together."""
    return "pack" if weights.pack > weights.spread else "spread"


def takes(view: NodeView) -> bool:
    """The node takes VMs at all; the others' loads are nobody's choice."""
    return view.ready and view.state is NodeState.READY


def share(view: NodeView) -> float:
    """How much of the node is promised: of vCPU or of memory, whichever is more."""
    room, taken = view.room, view.promised
    cpu = taken.cpus / room.cpus if room.cpus else 0.0
    return max(cpu, taken.memory_mib / room.memory_mib if room.memory_mib else 0.0)


def empty(view: NodeView) -> bool:
    """Nothing is promised by the node."""
    return view.promised.cpus <= 1e-9 and view.promised.memory_mib <= 0


def quality(nodes: Iterable[NodeView], weights: Weights) -> Objective:
    """Over the nodes that take VMs."""
    there = [view for view in nodes if takes(view)]
    shares = sorted(share(view) for view in there)
    mean = sum(shares) / len(shares) if shares else 0.0
    spread = sqrt(sum((one - mean) ** 2 for one in shares) / len(shares)) if shares else 0.0
    return Objective(
        aim=aim(weights), nodes=len(there), empty_nodes=sum(1 for view in there if empty(view)),
        mean_share=round(mean, 6), stdev_share=round(spread, 6),
    )  # fmt: skip
