"""Maintenance: is it on, what does it hold back, and does every agent heed it?"""

from __future__ import annotations

from collections.abc import Iterator

from metastack.core.protocol.maintenance import paused

from ..cluster.maintenance import maintenance_view
from .facts import Facts, Finding, error, warning


def check(facts: Facts) -> Iterator[Finding]:
    view, off = maintenance_view(facts.world, None), "metastack cluster maintenance off"
    if not view.on:
        return
    meaning = f"{paused(facts.world)}: no node is fenced, no VM is taken over or moved"
    if view.lost:
        yield error("cluster", f"{meaning}. Their VMs are down until it ends: {', '.join(view.lost)}", off)
    else:
        yield warning("cluster", meaning, "metastack cluster maintenance   # how long it lasts")
    for name in view.heedless:
        yield error(
            f"node {name}",
            "its agent is of an older release and does not heed the maintenance: it still fences and drains",
            f"upgrade or stop the agent of {name}",
        )
