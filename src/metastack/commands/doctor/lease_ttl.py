"""The lease's life against what etcd can keep: ceil(1.5 x its election timeout)."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, warning


def check(facts: Facts) -> Iterator[Finding]:
    wanted = facts.world.config.lease_ttl_s
    if facts.min_ttl_s > wanted:
        yield warning(
            "config lease_ttl_s",
            f"is {wanted} s, but this etcd grants no lease shorter than {facts.min_ttl_s} s (1.5 x its "
            "election timeout): a dead node is detected only then",
            f"metastack config set lease_ttl_s={facts.min_ttl_s}",
        )
