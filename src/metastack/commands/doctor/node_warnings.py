"""What nodes find wrong with themselves."""

from __future__ import annotations

from collections.abc import Iterator

from .facts import Facts, Finding, warning


def check(facts: Facts) -> Iterator[Finding]:
    for name, alive in facts.alive():
        for text in alive.warnings:
            yield warning(f"node {name}", text, f"metastack node show {name}")
