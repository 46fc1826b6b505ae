"""What a fence needs to know of a node: an address of its own; or, in mode client, its agent's client."""

from __future__ import annotations

from collections.abc import Iterator

from metastack.core.model import Fencing

from .facts import Facts, Finding, error


def check(facts: Facts) -> Iterator[Finding]:
    users: dict[str, list[str]] = {}
    kinds = {name: alive.storage for name, alive in facts.alive()}
    by_client = facts.world.config.fencing is Fencing.CLIENT
    for name in facts.world.nodes():
        found = facts.world.facts(name)
        known = found.record if found is not None else None
        for address in known.storage_addresses if known is not None else ():
            users.setdefault(address, []).append(name)
        if kinds.get(name, "") in ("", "file"):
            continue
        if known is None or not known.storage_addresses:
            yield error(
                f"node {name}",
                "declared no storage address: it cannot be fenced, so its VMs would not fail over",
                "set storage_addresses in its agent's configuration",
            )
        elif by_client and not known.storage_clients:
            yield error(
                f"node {name}",
                "declared no storage client: it cannot be fenced by client, so its VMs would not fail over",
                "restart its agent",
            )
    for address, names in sorted(users.items()):
        if len(names) > 1 and not by_client:
            yield error(
                f"address {address}",
                f"is shared by {', '.join(names)}: none can be fenced, so their VMs would not fail over. "
                "Give each node its own address. If one never returns: metastack node remove "
                f"{names[0]}. If they must share it, "
                "fence single clients, which is weaker (docs/internals/safety.md)",
                "metastack config set fencing=client",
            )
