"""Storage addresses: a node without one cannot be fenced, nodes that share one cannot be told apart."""

from __future__ import annotations

from collections.abc import Iterator

from metastack.core.model import Fencing

from .facts import Facts, Finding, error, warning


def check(facts: Facts) -> Iterator[Finding]:
    users: dict[str, list[str]] = {}
    kinds = {name: alive.storage for name, alive in facts.alive()}
    for name in facts.world.nodes():
        found = facts.world.facts(name)
        known = found.record.storage_addresses if found is not None and found.record is not None else ()
        for address in known:
            users.setdefault(address, []).append(name)
        if not known and kinds.get(name, "") not in ("", "file"):
            yield error(
                f"node {name}",
                "declared no storage address: it cannot be fenced, its VMs would not move",
                "set storage_addresses in its agent's configuration",
            )
    chosen = facts.world.config.fencing is Fencing.CLIENT
    for address, names in sorted(users.items()):
        if len(names) > 1:
            yield (warning if chosen else error)(
                f"address {address}",
                f"is shared by {', '.join(names)}: "
                + ("they are fenced client by client" if chosen else "none of them can be fenced"),
                f'metastack node unfence {names[0]} --reason "gone for good"   # if it is',
            )
