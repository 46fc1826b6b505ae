"""etcd's members: do they answer, do they see a leader, have they space left?"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .facts import Facts, Finding, error, warning

QUOTA_BYTES: Final = 2 << 30
"""etcd's default; a member tells its own only from 3.6 on."""


def check(facts: Facts) -> Iterator[Finding]:
    if facts.world_why:
        yield error(
            "etcd",
            f"etcd does not answer reads: {facts.world_why}. Running VMs keep running; no VM starts or moves",
            "etcdctl endpoint status --cluster",
        )
    for member in facts.members:
        object = f"etcd {member.endpoint}"
        if member.error:
            yield warning(
                object,
                f"does not answer: {member.error}",
                f"etcdctl --endpoints {member.endpoint} endpoint health",
            )
            continue
        if not member.leader_id:
            yield error(
                object, "sees no leader: the member is cut off, or quorum is lost", "etcdctl member list"
            )
        for alarm in member.alarms:
            yield error(
                object,
                f"has raised the alarm {alarm}: etcd refuses writes",
                "etcdctl compact REVISION && etcdctl defrag && etcdctl alarm disarm"
                if alarm == "NOSPACE"
                else "etcdctl member remove ID, then add it again",
            )
        if member.db_size_bytes > QUOTA_BYTES * 0.8:
            yield warning(
                object,
                f"its database has {member.db_size_bytes / (1 << 20):.0f} MiB; etcd stops writing at its quota "
                f"({QUOTA_BYTES >> 20} MiB unless --quota-backend-bytes is larger)",
                f"etcdctl --endpoints {member.endpoint} defrag",
            )
    up = [member for member in facts.members if not member.error]
    if len(up) == 1 == len(facts.members):
        return
    if facts.members and len({member.version for member in up}) > 1:
        told = ", ".join(f"{member.endpoint} {member.version}" for member in up)
        yield warning("etcd", f"its members run different versions: {told}", "upgrade the older ones")
