"""Secrets: is there a node that lacks a key under which one is encrypted?"""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, info, warning


def check(facts: Facts) -> Iterator[Finding]:
    if facts.secrets_why:
        yield info("cluster", f"whether nodes can read the secrets was not checked: {facts.secrets_why}")
    for key_id, names in sorted(facts.secrets.items()):
        for node, alive in facts.alive():
            if key_id not in alive.secret_keys:
                yield warning(
                    f"node {node}",
                    f"its keyring lacks key {key_id}: it cannot read {len(names)} of the secrets, "
                    f"such as {names[0]}",
                    "copy the keyring of a host that has the key to the node, mode 0600",
                )
