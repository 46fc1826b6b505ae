"""The newest backup of etcd: is there one, and how old is it?"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Final

from .facts import Facts, Finding, info, warning

OLD_H: Final = 50
"""Two daily backups and their random delays, hours."""


def check(facts: Facts) -> Iterator[Finding]:
    newest = facts.backup
    if newest is None:
        if facts.world.keys.backup() not in facts.unreadable:
            yield info("cluster", "no backup of etcd was ever recorded", "metastack cluster backup --to FOLDER")
        return
    try:
        age_h = (facts.now - datetime.fromisoformat(newest.at)).total_seconds() / 3600
    except (ValueError, TypeError):
        age_h = float("inf")
    if age_h > OLD_H:
        yield warning(
            "cluster",
            f"the newest backup of etcd is of {newest.at}: {newest.file} on {newest.host}",
            f"systemctl status metastack-backup.timer metastack-backup.service   # on {newest.host}",
        )
