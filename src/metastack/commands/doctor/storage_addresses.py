"""Storage addresses: a node without one cannot be fenced, nodes that share one cannot be told apart."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, error


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
    for address, names in sorted(users.items()):
        if len(names) > 1:
            yield error(
                f"address {address}",
                f"is shared by {', '.join(names)}: none of them can be fenced, their VMs would not move",
                f'metastack node unfence {names[0]} --reason "gone for good"   # if it is',
            )
