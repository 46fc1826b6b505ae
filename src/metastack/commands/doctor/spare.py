"""Room for the VMs of lost nodes, when the settings ask for it (``spare_nodes``)."""

from __future__ import annotations

from collections.abc import Iterator

from metastack.core.placement import without_room

from ..admission import in_words
from .facts import Facts, Finding, warning


def check(facts: Facts) -> Iterator[Finding]:
    wanted = facts.world.config.spare_nodes
    if not wanted:
        return
    lost, left = without_room(facts.world, wanted)
    if len(lost) < wanted and left:
        # In the words of `vm create`, which is refused for it.
        yield warning(
            "cluster",
            f"spare_nodes={wanted} keeps room for the loss of as many nodes, and only {len(lost)} are up",
            f"metastack config set spare_nodes={max(0, len(lost) - 1)}",
        )
    elif left:
        yield warning(
            "cluster",
            f"spare_nodes={wanted} does not hold: without {', '.join(lost)}, {in_words(left)}",
            f"metastack whatif --lose {','.join(lost)}",
        )
