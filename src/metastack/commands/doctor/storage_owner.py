"""Which storage the cluster has, whose mark it bears, and fences that were made in another one."""

from __future__ import annotations

from collections.abc import Iterator

from ..cluster.storage_views import INIT, verdict
from .facts import Facts, Finding, error, warning

SHOW = "metastack cluster storage show"


def check(facts: Facts) -> Iterator[Finding]:
    world, storage = facts.world, facts.storage
    for name in world.nodes():
        fence = world.fence(name)
        if fence is not None and world.alive(name) is None and (why := world.fence_flaw(name)):
            yield error(
                f"node {name}",
                f"its last fence is not valid, so no node takes its VMs over: {why}",
                f'metastack node fence {name} --reason "the last fence is not valid"',
            )
    if storage is not None and storage.owner_why:
        yield error("storage", storage.owner_why, SHOW)
    if storage is None or storage.here is None or storage.owner_why:
        return
    state, trouble = verdict(
        world.storage_identity(), storage.here, storage.owner, storage.owner_why, world.keys.root
    )
    if state in ("unnamed", "unmarked"):
        yield warning("storage", str(trouble), INIT)
    elif state != "ok":
        yield error("storage", str(trouble), SHOW)
