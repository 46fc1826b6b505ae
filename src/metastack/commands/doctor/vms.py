"""VMs of a node that do not run, or not as they should. (Those that wait for a node: :mod:`.pending`.)"""

from __future__ import annotations

from collections.abc import Iterator

from metastack.core.model import Phase, VmId

from ..fence.views import briefly
from ..vm.views import VmView, vm_views
from .facts import Facts, Finding, error, warning


def check(facts: Facts) -> Iterator[Finding]:
    for view in vm_views(facts.world):
        object, show = f"vm {view.id}", f"metastack vm show {view.id}"
        if view.broken:
            yield error(object, view.message or "unreadable record", show)
        elif view.phase == Phase.FAILED:
            yield error(object, view.message or "failed; its node reports no reason", show)
        elif view.phase == Phase.PAUSED and _disk_held(facts, view):
            yield error(object, view.message or "another client has its disk open", show)
        elif view.phase == Phase.CLAIMED and view.node and facts.world.alive(view.node) is None:
            # The brake has a check of its own.
            said = briefly(facts.world, view.node, view.message or "its node is lost")
            yield error(object, said, f"metastack fence show {view.node}")
        elif view.drift:
            yield warning(
                object, f"its guest was changed by hand: the guest {'; the guest '.join(view.drift)}", show
            )


def _disk_held(facts: Facts, view: VmView) -> bool:
    """A paused guest is not resumed, since another client has its disk open."""
    status = facts.world.status(VmId(view.project, view.name))
    return status is not None and status.record is not None and bool(status.record.disk_held_by)
