"""Rights of the storage user at hand: whoever may unblock anyone can undo every fence."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, warning


def check(facts: Facts) -> Iterator[Finding]:
    if facts.storage is not None and facts.storage.may_unblock_anyone:
        yield warning(
            f"user {facts.storage.user}",
            "may lift every block: a mistake with it can give a disk two writers. Nodes need to lift only "
            "their own blocks, management needs to lift none",
            f"ceph auth caps client.{facts.storage.user} mon 'profile rbd' osd 'profile rbd pool=POOL'",
        )
