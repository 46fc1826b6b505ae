"""Lost nodes: those whose VMs wait for a fence, and those that are merely away."""

from __future__ import annotations

from collections.abc import Iterator

from ..fence.views import trouble, unfenced
from .facts import Facts, Finding, error, info, warning


def check(facts: Facts) -> Iterator[Finding]:
    world = facts.world
    if not world.nodes():
        yield warning("cluster", "no node has joined", "metastack agent run --help")
    for name in world.nodes():
        alive = world.alive(name)
        if alive is not None:
            if alive.record is not None and not alive.record.ready:
                why = alive.record.message or "no reason reported"
                yield error(
                    f"node {name}", f"is registered but not ready: {why}", f"metastack node show {name}"
                )
            continue
        left = unfenced(world, name)
        if left:
            why, wait = trouble(world, name), "VM waits" if len(left) == 1 else "VMs wait"
            yield error(
                f"node {name}",
                f"is lost and not fenced; {len(left)} {wait} for its fence" + (f": {why}" if why else ""),
                f'metastack node fence {name} --reason "it is switched off"',
            )
        else:
            yield info(f"node {name}", "is lost; it owns no VM", f"metastack node show {name}")
