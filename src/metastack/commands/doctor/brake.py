"""The mass brake: does it hold?"""

from __future__ import annotations

from collections.abc import Iterator

from ..cluster.status import brake_of
from ..node.views import node_infos
from .facts import Facts, Finding, error


def check(facts: Facts) -> Iterator[Finding]:
    if said := brake_of(facts.world, node_infos(facts.world)):
        yield error(
            "cluster",
            f"{said}. VMs of lost nodes stay down until a node returns or you fence one that is switched off",
            'metastack node fence NODE --reason "it is switched off"',
        )
