"""Nodes that live, and whose storage does not answer."""

from __future__ import annotations

from collections.abc import Iterator

from ..cluster.status import silent
from .facts import Facts, Finding, error


def check(facts: Facts) -> Iterator[Finding]:
    for name, why in silent(facts.world):
        yield error(f"node {name}", why, f"metastack node show {name}")
