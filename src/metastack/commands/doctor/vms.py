"""VMs that a node answers for, and that do not run. (Those that wait for a node: :mod:`.pending`.)"""

from __future__ import annotations

from collections.abc import Iterator

from metastack.core.model import Phase

from ..fence_view import briefly
from ..views import vm_views
from .facts import Facts, Finding, error


def check(facts: Facts) -> Iterator[Finding]:
    for view in vm_views(facts.world):
        object, show = f"vm {view.id}", f"metastack vm show {view.id}"
        if view.broken:
            yield error(object, view.message or "broken record", show)
        elif view.phase == Phase.FAILED:
            yield error(object, view.message or "failed, and its node does not say why", show)
        elif view.phase == Phase.CLAIMED and view.node and facts.world.alive(view.node) is None:
            # The brake has a check of its own.
            said = briefly(facts.world, view.node, view.message or "its node is lost")
            yield error(object, said, f"metastack fence show {view.node}")
