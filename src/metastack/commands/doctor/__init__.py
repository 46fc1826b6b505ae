"""The doctor: everything that could be wrong with a cluster, one file a check.

Owns: the list of checks, and their order. Refuses: mending anything.
Rule: a check is ``check(facts)``, pure, and yields findings; adding one is a file and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from . import (
    brake,
    etcd_health,
    etcd_version,
    fence_blocked,
    fences_open,
    fencing,
    kvm,
    lease_ttl,
    leftovers,
    node_warnings,
    nodes_lost,
    pending,
    records,
    restored,
    spare,
    storage_addresses,
    storage_rights,
    unplaceable,
    versions,
    vms,
)
from .facts import Facts, Finding, Severity

Check = Callable[[Facts], Iterator[Finding]]

ETCD: Final[dict[str, Check]] = {
    "etcd_health": etcd_health.check,
    "etcd_version": etcd_version.check,
}
"""Checks that need no record."""

CHECKS: Final[dict[str, Check]] = {
    **ETCD,
    "restored": restored.check,
    "brake": brake.check,
    "nodes_lost": nodes_lost.check,
    "fences_open": fences_open.check,
    "fence_blocked": fence_blocked.check,
    "fencing": fencing.check,
    "storage_addresses": storage_addresses.check,
    "storage_rights": storage_rights.check,
    "node_warnings": node_warnings.check,
    "records": records.check,
    "vms": vms.check,
    "pending": pending.check,
    "unplaceable": unplaceable.check,
    "spare": spare.check,
    "lease_ttl": lease_ttl.check,
    "kvm": kvm.check,
    "versions": versions.check,
    "leftovers": leftovers.check,
}


def examine(facts: Facts) -> list[Finding]:
    """Every finding, the worst first."""
    checks = ETCD if facts.world_why else CHECKS
    found = []
    for name, check in checks.items():
        for finding in check(facts):
            finding.check = name
            finding.name = f"{name}:{finding.object}"
            found.append(finding)
    order = list(Severity)
    return sorted(found, key=lambda finding: order.index(finding.severity))
