"""Records that do not parse: each is left alone by everybody, and so is what it describes."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, error


def check(facts: Facts) -> Iterator[Finding]:
    for key, why in sorted(facts.unreadable.items()):
        if key == facts.world.keys.cluster():
            yield error(
                "config",
                f"the settings cannot be read: {why}. Agents use those they read last; an agent that starts "
                "now fences no node. Rewrite the record, or delete it to use the defaults",
                f"etcdctl get {key}",
            )
            continue
        yield error(key, f"unreadable record, ignored: {why}", f"etcdctl get {key}")
