"""The doctor: everything that could be wrong with a cluster, one file a check.

Owns: the list of checks, and their order. Refuses: mending anything.
Rule: a check is ``check(facts)``, pure, and yields findings; adding one is a file and a line here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from . import (
    backup,
    brake,
    certificate,
    credentials,
    etcd_health,
    etcd_rights,
    etcd_version,
    fence_blocked,
    fences_open,
    fencing,
    given_back,
    kvm,
    lease_ttl,
    leftovers,
    maintenance,
    node_warnings,
    nodes_lost,
    ownership,
    pending,
    platform,
    records,
    restored,
    secret_keys,
    spare,
    storage_addresses,
    storage_owner,
    storage_rights,
    storage_silent,
    unplaceable,
    upgrade,
    versions,
    vms,
)
from .facts import Facts, Finding, Severity

SHOWN: Final = 5
"""Number of objects of one kind that are named; of more only the count."""

Check = Callable[[Facts], Iterator[Finding]]

ETCD: Final[dict[str, Check]] = {
    "etcd_health": etcd_health.check,
    "etcd_version": etcd_version.check,
    "etcd_rights": etcd_rights.check,
    "certificate": certificate.check,
}
"""Checks that need no record."""

CHECKS: Final[dict[str, Check]] = {
    **ETCD,
    "restored": restored.check,
    "maintenance": maintenance.check,
    "brake": brake.check,
    "nodes_lost": nodes_lost.check,
    "fences_open": fences_open.check,
    "fence_blocked": fence_blocked.check,
    "fencing": fencing.check,
    "storage_silent": storage_silent.check,
    "storage_addresses": storage_addresses.check,
    "storage_owner": storage_owner.check,
    "storage_rights": storage_rights.check,
    "node_warnings": node_warnings.check,
    "records": records.check,
    "vms": vms.check,
    "given_back": given_back.check,
    "pending": pending.check,
    "unplaceable": unplaceable.check,
    "spare": spare.check,
    "backup": backup.check,
    "lease_ttl": lease_ttl.check,
    "kvm": kvm.check,
    "versions": versions.check,
    "platform": platform.check,
    "secret_keys": secret_keys.check,
    "credentials": credentials.check,
    "upgrade": upgrade.check,
    "leftovers": leftovers.check,
    "ownership": ownership.check,
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


def grouped(findings: Sequence[Finding]) -> list[tuple[str, Finding]]:
    """For people: the same finding about several objects once, with all their names and the first of them."""
    groups: dict[tuple[str, ...], list[Finding]] = {}
    for found in findings:
        command = found.command.replace(found.object.partition(" ")[2] or found.object, "")
        key = (found.severity, found.check, found.object.partition(" ")[0], found.meaning, command)
        groups.setdefault(key, []).append(found)
    return [(_objects([found.object for found in group]), group[0]) for group in groups.values()]


def _objects(names: Sequence[str]) -> str:
    """``node n1``, or ``nodes n1, n2 and 7 more``."""
    if len(names) == 1:
        return names[0]
    kind = names[0].partition(" ")[0]
    told = ", ".join(name.partition(" ")[2] or name for name in names[:SHOWN])
    return f"{kind}s {told}" + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
