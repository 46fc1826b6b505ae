"""Disks that no VM has any more and that are still there."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, info


def check(facts: Facts) -> Iterator[Finding]:
    world = facts.world
    used = {spec.record.volume_uuid for _, spec in world.specs() if spec.record is not None}
    used |= {claim.record.volume_uuid for _, claim in world.claims() if claim.record is not None}
    unreadable = any(spec.record is None for _, spec in world.specs())
    left = [f"{project}/{uuid}" for (project, uuid), _ in world.volumes() if uuid not in used]
    if left and not unreadable:
        yield info(
            "storage",
            f"{len(left)} disks of deleted VMs wait for removal ({', '.join(sorted(left)[:3])}"
            f"{' …' if len(left) > 3 else ''}); removed disks stay in the trash for "
            f"{world.config.trash_retention_s} s",
            "metastack config show",
        )
