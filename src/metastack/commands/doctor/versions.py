"""Versions of agents and of this program."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, info, warning


def check(facts: Facts) -> Iterator[Finding]:
    told = {name: alive.versions.get("metastack", "") for name, alive in facts.alive()}
    for name, version in sorted(told.items()):
        if version and version != facts.version:
            yield warning(
                f"node {name}",
                f"runs MetaStack {version}, this program is {facts.version}",
                "upgrade the older one",
            )
        if not version:
            yield info(f"node {name}", "does not report its version", f"metastack node show {name}")
