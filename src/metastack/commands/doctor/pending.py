"""VMs that nobody has taken for long, each with the reason that most nodes give."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from metastack.core.placement import PlacementEngine, explain

from ..reasons import main_reason
from .facts import Facts, Finding, info, warning

LONG_S = 60.0
"""A VM that waits for so long since it was created was not merely overlooked for a moment."""


def check(facts: Facts) -> Iterator[Finding]:
    engine = PlacementEngine(facts.world)
    for wait in sorted(engine.waiting.values(), key=lambda one: one.line):
        show = f"metastack vm explain {wait.vm}"
        age_s = _age_s(wait.spec.created, facts.now)
        said = f" and was created {age_s:.0f} s ago" if age_s is not None else ""
        if wait.held:
            yield info(f"vm {wait.vm}", f"is pending{said}: {wait.held}", show)
            continue
        if wait.head:
            why = f"{wait.head[0]} ranks first but has not claimed it"
        else:
            why = main_reason({verdict.node: verdict.reasons for verdict in explain(engine, wait.spec)})
            why = f"no node fits: {why}"
        young = age_s is not None and age_s < LONG_S
        yield (info if young else warning)(f"vm {wait.vm}", f"is pending{said}: {why}", show)


def _age_s(created: str, now: datetime) -> float | None:
    """Seconds since then; None when that is not known, or lies ahead."""
    try:
        age_s = (now - datetime.fromisoformat(created)).total_seconds()
    except (ValueError, TypeError):
        return None
    return age_s if age_s >= 0 else None
