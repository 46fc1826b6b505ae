"""The volume index: which disk records belong to which VM, and which records name one UUID.

Owns: the index. Refuses: deciding what is removed (:mod:`metastack.agent.upkeep.sweeper`).
Rule: it says what the world says; it only spares looking through every record for one.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar, cast

from ...core.model import VmId, VmSpec, Volume
from ...core.state.cluster_state import ClusterState
from ...core.state.keys import Kind, ParsedKey

K = TypeVar("K")
Names = tuple[str, str]
"""Project and UUID of a disk's record."""


class VolumeIndex:
    """Disk records by VM and by UUID."""

    def __init__(self, world: ClusterState) -> None:
        self._world = world
        self._vm: dict[Names, VmId] = {}
        self._of: dict[VmId, tuple[Names, ...]] = {}
        self._named: dict[str, tuple[Names, ...]] = {}
        for names in world.names(Kind.VOLUME):
            self._see(cast(Names, names))

    def update(self, touched: Iterable[ParsedKey]) -> None:
        """Take in what changed."""
        for key in touched:
            if key.kind is Kind.VOLUME:
                self._see(cast(Names, key.names))

    def _see(self, names: Names) -> None:
        found = self._world.volume(*names)
        record = found.record if found is not None else None
        vm = VmId(record.project, record.vm) if record is not None else None
        alone = (names,)  # there are as many as disks: one for both tables
        old = self._vm.get(names)
        if old is not None and old != vm:
            del self._vm[names]
            _drop(self._of, old, names)
        if vm is not None and old != vm:
            self._vm[names] = vm
            _add(self._of, vm, alone)
        if found is None:
            _drop(self._named, names[1], names)
        else:
            _add(self._named, names[1], alone)

    def of(self, vm: VmId) -> list[Names]:
        """Records of a VM's disks, also of older VMs of its name."""
        return list(self._of.get(vm, ()))

    def named(self, uuid: str) -> list[Volume]:
        """Every readable record of that UUID, in whatever project."""
        found = (self._world.volume(*names) for names in self._named.get(uuid, ()))
        return [volume.record for volume in found if volume is not None and volume.record is not None]

    def first(self, uuid: str) -> Names | None:
        """The oldest record of that UUID, readable or not: the disk is its VM's."""
        there = ((self._world.volume(*names), names) for names in self._named.get(uuid, ()))
        return min(((found.create, names) for found, names in there if found is not None), default=(0, None))[1]

    def foreign_owner(self, spec: VmSpec) -> str:
        """Whose disk that is, when it was another VM's before it was the spec's; empty: nobody's."""
        mine = self._world.volume(spec.project, spec.volume_uuid)
        own = mine is not None and mine.record is not None and belongs(mine.record, spec)
        born = (mine.create, spec.project) if mine is not None and own else None
        for names in self._named.get(spec.volume_uuid, ()):
            found = self._world.volume(*names)
            if found is None or found.record is None or belongs(found.record, spec):
                continue
            if born is None or (found.create, names[0]) < born:
                volume = found.record
                return f"its disk {volume.uuid} belongs to {volume.project}/{volume.vm} (uuid {volume.vm_uuid})"
        return ""


def belongs(volume: Volume, spec: VmSpec) -> bool:
    """The record is of that VM's disk. By its name too: somebody may have copied the whole of a spec."""
    return (volume.project, volume.vm, volume.vm_uuid) == (spec.project, spec.name, spec.uuid)


def _add(table: dict[K, tuple[Names, ...]], key: K, alone: tuple[Names]) -> None:
    there = table.get(key)
    if there is None:
        table[key] = alone
    elif alone[0] not in there:
        table[key] = tuple(sorted((*there, *alone)))


def _drop(table: dict[K, tuple[Names, ...]], key: K, names: Names) -> None:
    left = tuple(other for other in table.get(key, ()) if other != names)
    if left:
        table[key] = left
    else:
        table.pop(key, None)
