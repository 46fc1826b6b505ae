"""Records that do not parse: each is left alone by everybody, and so is what it describes."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, error


def check(facts: Facts) -> Iterator[Finding]:
    for key, why in sorted(facts.unreadable.items()):
        if key == facts.world.keys.cluster():
            yield error(
                "config",
                f"the settings cannot be read: {why}. Agents go by those that they read last; one that starts "
                "now fences nobody. Write them anew, or delete the record for the defaults",
                f"etcdctl get {key}",
            )
            continue
        yield error(key, f"its record is left alone: {why}", f"etcdctl get {key}")
