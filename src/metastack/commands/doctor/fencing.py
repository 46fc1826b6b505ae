"""Which fence this cluster has, and what it cannot do."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, info


def check(facts: Facts) -> Iterator[Finding]:
    files = sorted(name for name, alive in facts.alive() if alive.storage == "file")
    if files:
        yield info(
            "cluster",
            f"the file storage of {', '.join(files)} cannot shut a node out from afar: a takeover waits until "
            "QEMU's lock on the disk is free, and every node must see the same file system",
        )
