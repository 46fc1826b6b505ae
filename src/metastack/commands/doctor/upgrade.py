"""An upgrade that is not finished, and agents that are older than the records that they are to read."""

from __future__ import annotations

from collections.abc import Iterator

from ..cluster.upgrade_views import behind, understood, unfinished
from .facts import Facts, Finding, error, warning


def check(facts: Facts) -> Iterator[Finding]:
    world = facts.world
    for name, why in behind(world, world.level):
        if understood(world, name):
            yield error(
                f"node {name}",
                f"{why}, but the cluster writes level {world.level}: the node ignores records it cannot read",
                "upgrade its agent",
            )
    if said := unfinished(world):
        over = not behind(world)
        yield warning("cluster", said, "metastack cluster upgrade-finish" if over else "upgrade their agents")
