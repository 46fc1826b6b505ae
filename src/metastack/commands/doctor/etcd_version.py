"""etcd's version: known faults of old ones that touch leases and rights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from .facts import Facts, Finding, error, warning

FAULTS: Final = (
    (
        {(3, 4): 31, (3, 5): 13},
        "a leader that stalled can revoke leases that are renewed: needless failovers, no data loss",
    ),
    (
        {(3, 4): 38, (3, 5): 23},
        "renewing a revoked lease can succeed: the node detects the revocation by its own watch",
    ),
    (
        {(3, 4): 42, (3, 5): 28, (3, 6): 9},
        "nested transactions bypass etcd's access rights: a user that may write some keys may write all",
    ),
)
"""First good patch of each series, and what goes wrong before it."""
ADVICE: Final = "upgrade etcd to 3.5.28, 3.6.9 or later"


def numbers(version: str) -> tuple[int, int, int] | None:
    """``3.4.23`` as numbers; None for what is none."""
    parts = version.split("-", maxsplit=1)[0].split(".")
    try:
        major, minor, patch = (int(part) for part in parts[:3])
    except ValueError:
        return None
    return major, minor, patch


def check(facts: Facts) -> Iterator[Finding]:
    for member in facts.members:
        if member.error:
            continue
        object, found = f"etcd {member.endpoint}", numbers(member.version)
        if found is None:
            yield warning(object, f"reports an unknown version: {member.version!r}")
        elif found < (3, 4, 0):
            yield error(object, f"{member.version} is too old", ADVICE)
        else:
            for good, meaning in FAULTS:
                if found[2] < good.get(found[:2], 0):
                    yield warning(object, f"{member.version}: {meaning}", ADVICE)
