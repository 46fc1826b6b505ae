"""Which VMs wait for a node, and which wait for other VMs first, because they start after them."""

from __future__ import annotations

from collections.abc import Iterator

from ..model import Claim, Phase, VmId, VmSpec
from ..state.cluster_state import ClusterState, Seen, wants_on


def start_gate(world: ClusterState, vm: VmId, spec: VmSpec) -> str:
    """Why it is not this VM's time yet; empty: it is."""
    for other in awaited(world, vm, spec):
        found = world.status(other)
        status = found.record if found is not None else None
        if status is None or status.phase is not Phase.RUNNING:
            return f"starts after {other}, which does not run yet"
        if not status.ready:
            return f"starts after {other}, whose readiness port does not answer yet"
    return ""


def awaited(world: ClusterState, vm: VmId, spec: VmSpec) -> Iterator[VmId]:
    """VMs that have to be up before that VM starts.

    A VM that is off, or paused by its spec, holds no other, and neither does a circle.
    """
    for name in spec.ha.start_after:
        other = VmId(vm.project, name)
        if wants_on(world, other) and not _wants_pause(world, other) and not _starts_after(world, other, vm):
            yield other


def port_unanswered(world: ClusterState, vm: VmId) -> bool:
    """The VM runs, and the port that says that it is up does not answer."""
    found = world.status(vm)
    status = found.record if found is not None else None
    return status is not None and status.phase is Phase.RUNNING and not status.ready


def _wants_pause(world: ClusterState, vm: VmId) -> bool:
    """Its owner paused it where it is: it is up, and may stay silent for days."""
    spec, claim = world.spec(vm), world.claim(vm)
    if spec is None or spec.record is None or claim is None or claim.record is None:
        return False
    return bool(spec.record.paused_epoch) and spec.record.paused_epoch == claim.record.epoch


def _starts_after(world: ClusterState, vm: VmId, other: VmId) -> bool:
    """``vm`` waits for ``other``, perhaps by way of more."""
    seen: set[VmId] = set()
    todo = [vm]
    while todo:
        at = todo.pop()
        found = world.spec(at)
        if at in seen or found is None or found.record is None:
            continue
        seen.add(at)
        todo += [VmId(at.project, name) for name in found.record.ha.start_after]
    return other in seen


def unowned(world: ClusterState, vm: VmId, lost: frozenset[str] = frozenset()) -> bool:
    """No session owns the VM, or only one that is shut out of the storage (or thought away)."""
    return not owned(world, world.claim(vm), lost)


def owned(world: ClusterState, found: Seen[Claim] | None, lost: frozenset[str] = frozenset()) -> bool:
    """A session owns the VM with that claim; a claim that cannot be read may be anybody's."""
    if found is None:
        return False
    claim = found.record
    return claim is None or (claim.node not in lost and claim.session > world.shut_out_through(claim.node))


def waiting(world: ClusterState) -> list[VmId]:
    """VMs that should run and that no session owns, the oldest request first."""
    found = [(spec.mod, vm) for vm, spec in world.specs() if unowned(world, vm) and wants_on(world, vm)]
    return [vm for _, vm in sorted(found)]
