"""A restored etcd: nodes that do not believe it, and nodes that are still waited for."""

from __future__ import annotations

from collections.abc import Iterator

from metastack.core.protocol.restored import waits_for
from metastack.core.state.keys import Kind

from .facts import Facts, Finding, error


def check(facts: Facts) -> Iterator[Finding]:
    world = facts.world
    for (name,) in sorted(n for n in world.names(Kind.REFUSAL)):
        found = world.refusal(name)
        why = (
            found.record.why if found is not None and found.record is not None else "its reason cannot be read"
        )
        yield error(
            f"node {name}",
            f"rejects this etcd; its guests keep running: {why}",
            'metastack cluster restore --reason "the backup of ..."   # if it was restored',
        )
    for name in (n for n in waits_for(world) if world.refusal(n) is None):
        yield error(
            f"node {name}",
            "has not returned since etcd was restored: no VM starts until the node returns or is fenced",
            f'metastack node fence {name} --reason "its host is switched off"   # only if it is',
        )
