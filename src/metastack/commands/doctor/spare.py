"""Capacity for the VMs of lost nodes, when the settings ask for it (``spare_nodes``)."""

from __future__ import annotations

from collections.abc import Iterator

from metastack.core.placement import first_unfitting_loss

from ..capacity.reserve import in_words, more_spare_than_up
from .facts import Facts, Finding, warning


def check(facts: Facts) -> Iterator[Finding]:
    wanted = facts.world.config.spare_nodes
    if not wanted:
        return
    lost, left = first_unfitting_loss(facts.world, wanted)
    if left and (few := more_spare_than_up(wanted, lost)):
        yield warning("cluster", *few)
    elif left:
        yield warning(
            "cluster",
            f"spare_nodes={wanted} is not met: without {', '.join(lost)}, {in_words(left)}",
            f"metastack whatif --lose {','.join(lost)}",
        )
