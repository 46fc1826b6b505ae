"""``cluster upgrade-check``: what blocks an upgrade to this program's release, before anything is installed.

Owns: which of the doctor's checks bear on an upgrade, and those that only an upgrade has. Pure.
Refuses: upgrading, and looking at hosts: their disks and packages are out of reach here.
Rule: an error blocks, a warning is a person's decision. An upgrade that stopped half-way is no reason to refuse
the rest of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from metastack.core.platforms import PLATFORMS, older
from metastack.core.state.record_versions import LEVEL, RELEASES

from .cluster.shutdown import in_words, shutdown_view
from .cluster.upgrade_views import understood
from .doctor import (
    brake,
    etcd_health,
    fences_open,
    maintenance,
    nodes_lost,
    pending,
    records,
    restored,
    storage_silent,
    vms,
)
from .doctor.facts import Facts, Finding, Severity, error, info, warning

Check = Callable[[Facts], Iterator[Finding]]

OLDEST_LEVEL: Final = min((*RELEASES, LEVEL))
"""The oldest record level beside whose agents this release works."""
OLDEST_ETCD: Final = PLATFORMS[-1].etcd
FRESH_H: Final = 24
"""A backup that is older than that is not one of before the upgrade, hours."""


class UpgradeCheck(Struct, kw_only=True):
    """Whether an upgrade may begin, or go on."""

    version: str
    """The release that it goes to: this program's."""
    level: int
    """Record level of that release."""
    before: int
    """Record level that the cluster writes."""
    ready: bool
    """Nothing blocks."""
    agents: dict[str, int]
    """Live agents by their release."""
    findings: list[Finding]
    """The worst first."""


def check_upgrade(facts: Facts) -> UpgradeCheck:
    """What stands in the way of an upgrade to this program's release. Pure."""
    found = []
    for name, check in CHECKS.items():
        if facts.world_why and check is not _etcd:
            continue
        for finding in check(facts):
            finding.check, finding.name = name, f"{name}:{finding.object}"
            found.append(finding)
    order = list(Severity)
    found.sort(key=lambda finding: order.index(finding.severity))
    return UpgradeCheck(
        version=facts.version,
        level=LEVEL,
        before=facts.world.level,
        ready=all(finding.severity is not Severity.ERROR for finding in found),
        agents=dict(sorted(_agents(facts).items())),
        findings=found,
    )


def _agents(facts: Facts) -> Counter[str]:
    return Counter(alive.versions.get("metastack", "unknown") for _, alive in facts.alive())


def _releases(facts: Facts) -> Iterator[Finding]:
    for name, alive in facts.alive():
        version = alive.versions.get("metastack", "")
        if older(facts.version, version):
            yield error(
                f"node {name}",
                f"runs MetaStack {version}, which is newer than this program, {facts.version}",
                "run the upgrade-check of the release that you upgrade to",
            )
    done, all_of_them = _agents(facts)[facts.version], _agents(facts).total()
    if done and done < all_of_them:
        yield info("cluster", f"{done} of {all_of_them} agents run {facts.version} already")


def _records(facts: Facts) -> Iterator[Finding]:
    world = facts.world
    if (level := world.config.record_version) > LEVEL:
        yield error(
            "cluster",
            f"writes records of level {level}; this program, {facts.version}, reads up to level {LEVEL}",
            "run the upgrade-check of the release that you upgrade to",
        )
    for name, alive in facts.alive():
        if (knows := understood(world, name)) < OLDEST_LEVEL:
            version = alive.versions.get("metastack", "of an unknown version")
            yield error(
                f"node {name}",
                f"its agent {version} reads records of level {knows}, {facts.version} works beside level "
                f"{OLDEST_LEVEL} and later: a release would be skipped",
                "upgrade to the release between them first",
            )
    # What every agent reads, and none of them is of this release: the upgrade before was never finished.
    behind = min((understood(world, name) for name, _ in facts.alive()), default=0)
    if world.level < behind and not _agents(facts)[facts.version]:
        yield error(
            "cluster",
            f"every agent reads records of level {behind}, and the cluster still writes level {world.level}: "
            "the upgrade before is unfinished",
            "metastack cluster upgrade-finish   # with the release that the agents run",
        )


def _nodes(facts: Facts) -> Iterator[Finding]:
    for finding in nodes_lost.check(facts):
        # One that is away and owns nothing is upgraded when it is back: somebody has to know.
        yield (
            finding
            if finding.severity is not Severity.INFO
            else replace(
                finding,
                severity=Severity.WARNING,
                meaning=f"{finding.meaning}: its agent has to be upgraded before it returns",
                command=f"metastack node remove {finding.object.removeprefix('node ')}   # if it never returns",
            )
        )
    for name in facts.world.nodes():
        spec = facts.world.node_spec(name)
        if spec is not None and spec.record is not None and spec.record.draining:
            yield warning(
                f"node {name}", "drains: its VMs move while agents restart", f"metastack node undrain {name}"
            )


def _fences(facts: Facts) -> Iterator[Finding]:
    for finding in fences_open.check(facts):
        yield replace(finding, severity=Severity.ERROR)


def _etcd(facts: Facts) -> Iterator[Finding]:
    for finding in etcd_health.check(facts):
        # A member that is down leaves none to spare while hosts are worked on.
        silent = finding.object != "etcd" and finding.meaning.startswith("does not answer")
        yield replace(finding, severity=Severity.ERROR) if silent else finding
    for member in facts.members:
        if not member.error and older(member.version, OLDEST_ETCD):
            yield error(
                f"etcd {member.endpoint}",
                f"{member.version} is older than {OLDEST_ETCD}, the oldest that MetaStack is tested with",
                "upgrade etcd first, one member at a time",
            )


def _maintenance(facts: Facts) -> Iterator[Finding]:
    """It may be on for the upgrade's sake; and agents that do not heed it are what is upgraded."""
    for finding in maintenance.check(facts):
        yield replace(finding, severity=Severity.WARNING)


def _shutdown(facts: Facts) -> Iterator[Finding]:
    if said := in_words(shutdown_view(facts.world, None)):
        yield error("cluster", said, "metastack cluster shutdown --cancel   # or wait for the hosts")


def _vms(facts: Facts) -> Iterator[Finding]:
    """A VM that is down anyway loses nothing; but nobody should take it for the upgrade's doing afterwards."""
    for check in (vms.check, pending.check):
        for finding in check(facts):
            if finding.severity is Severity.ERROR:
                finding = replace(finding, severity=Severity.WARNING)
            yield finding


def _backup(facts: Facts) -> Iterator[Finding]:
    command, newest = "metastack cluster backup --to FOLDER", facts.backup
    if newest is None:
        yield warning("cluster", "no backup of etcd is recorded", command)
    elif (facts.now - datetime.fromisoformat(newest.at)).total_seconds() > FRESH_H * 3600:
        yield warning("cluster", f"the newest backup of etcd is of {newest.at}", command)


CHECKS: Final[dict[str, Check]] = {
    "etcd": _etcd,
    "releases": _releases,
    "record_level": _records,
    "records": records.check,
    "restored": restored.check,
    "nodes": _nodes,
    "brake": brake.check,
    "fences": _fences,
    "storage_silent": storage_silent.check,
    "maintenance": _maintenance,
    "shutdown": _shutdown,
    "vms": _vms,
    "backup": _backup,
}
