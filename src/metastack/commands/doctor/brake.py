"""The mass brake: does it hold?"""

from __future__ import annotations

from collections.abc import Iterator

from ..views import cluster_view
from .facts import Facts, Finding, error


def check(facts: Facts) -> Iterator[Finding]:
    view = cluster_view(facts.world)
    if view.brake_engaged:
        yield error(
            "cluster",
            f"{view.problems[0]}. VMs of lost nodes stay down until one returns, or you know that it is off",
            'metastack node fence NODE --reason "it is switched off"',
        )
