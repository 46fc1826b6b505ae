"""Records that do not parse: each is left alone by everybody, and so is what it describes."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, error


def check(facts: Facts) -> Iterator[Finding]:
    for key, why in sorted(facts.unreadable.items()):
        yield error(key, f"its record is left alone: {why}", f"etcdctl get {key}")
