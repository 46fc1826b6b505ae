"""Verbs of people who reach past the platform to its disks: renamed, trashed, their specs renamed or away.

Owns: these verbs. Refuses: being counted: no cell of coverage is theirs.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from msgspec.structs import replace

from ....core.model import VmSpec
from ....core.state.codec import encode
from ....core.transaction import Delete, Put, Transaction
from ..engine.lab import Lab
from .verbs import FAULTS, Undo, fault, nothing

_BEFORE: Final = frozenset(FAULTS)


@fault("disk-renamed", "cluster", lasts=True)
def _disk_renamed(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Somebody renames a VM's disk, ``disk-renamed vm1``; at the end it has its name again."""
    spec = lab.operator.spec(args[0])
    if spec is None or spec.volume_uuid not in lab.pool.disks:
        return None
    away = lab.pool.disks.pop(spec.volume_uuid)

    def back() -> None:
        lab.pool.disks[away.uuid] = away

    return back


@fault("disk-trashed", "cluster", lasts=True)
def _disk_trashed(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Somebody moves a VM's disk to the trash, ``disk-trashed vm1``; at the end it is back."""
    spec = lab.operator.spec(args[0])
    if spec is None or spec.volume_uuid not in lab.pool.disks:
        return None
    uuid = spec.volume_uuid
    lab.pool.trash_by_hand(uuid)

    def back() -> None:
        if uuid in lab.pool.trash:
            lab.pool.disks[uuid] = lab.pool.trash.pop(uuid)[0]

    return back


@fault("spec-renamed", "cluster")
def _spec_renamed(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Somebody renames a VM with etcdctl: ``spec-renamed vm1 vm2``."""
    spec = lab.operator.spec(args[0])
    if spec is None:
        return None
    new = replace(spec, name=args[1])
    effects = (Delete(lab.keys.vm_spec(spec.id)), Put(lab.keys.vm_spec(new.id), encode(new)))
    lab.cluster.apply(Transaction(name="operator", guards=(), effects=effects))
    return nothing


@fault("spec-away", "cluster", lasts=True)
def _spec_away(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """A VM's spec is deleted with etcdctl, ``spec-away vm1 [NAME]``; at the end it is back, under that name."""
    spec = lab.operator.spec(args[0])
    if spec is None:
        return None
    lab.delete(lab.keys.vm_spec(spec.id))
    return partial(_put, lab, replace(spec, name=args[-1]))


def _put(lab: Lab, spec: VmSpec) -> None:
    lab.put(lab.keys.vm_spec(spec.id), spec)


DISKS: Final = frozenset(FAULTS) - _BEFORE
"""Verbs that coverage does not count."""
