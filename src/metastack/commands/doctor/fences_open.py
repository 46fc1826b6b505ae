"""Open fences: an intent that is not done within a minute needs a person."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from ..fence.views import fence_views, open_for_s
from .facts import Facts, Finding, error, info

LONG_S: Final = 60.0


def check(facts: Facts) -> Iterator[Finding]:
    for view in fence_views(facts.world):
        found = facts.world.fence(view.name)
        if view.state != "open" or found is None or found.record is None:
            continue
        open_s = open_for_s(found.record, facts.now)
        since = f"for {open_s:.0f} s" if open_s is not None else "for an unknown time"
        why = view.trouble or f"{view.intent_by} is fencing the node"
        told = f"its fence is open {since}: {why}"
        if view.trouble or (open_s is not None and open_s > LONG_S):
            yield error(f"node {view.name}", told, f"metastack fence show {view.name}")
        else:
            yield info(f"node {view.name}", told, f"metastack fence show {view.name}")
