"""What nobody removes: objects without a record; and disks that are not where their VM looks for them."""

from __future__ import annotations

from collections.abc import Iterator

from metastack.core.model import VmId, Volume
from metastack.ports.ownership import same_object

from .facts import Facts, Finding, error, info, warning

SHOWN = 5


def check(facts: Facts) -> Iterator[Finding]:
    storage = facts.storage
    if storage is not None and storage.strays:
        names = ", ".join(f"{s.name} ({s.why})" if s.why else s.name for s in storage.strays[:SHOWN])
        more = f" and {len(storage.strays) - SHOWN} more" if len(storage.strays) > SHOWN else ""
        yield info(
            "storage",
            f"no record names {names}{more}: no node uses or removes it; if it has no owner, remove it by hand",
        )
    for spec, record in _volumes(facts):
        if (record.project, record.vm) != (spec.project, spec.name):
            yield warning(
                f"vm {spec}",
                f"its disk {record.uuid} belongs to {record.project}/{record.vm}: the VM does not start",
                f"metastack vm show {record.project}/{record.vm}",
            )
        elif storage is not None and record.made and record.uuid not in storage.disks:
            yield from _missing(facts, spec, record)


def _missing(facts: Facts, vm: VmId, record: Volume) -> Iterator[Finding]:
    assert facts.storage is not None
    lies = [disk for disk in facts.storage.trash if disk.uuid == record.uuid]
    trashed = facts.trashed.get(record.uuid)
    if trashed is not None and any(same_object(disk.ident, trashed.ident) for disk in lies):
        yield info(
            f"vm {vm}",
            f"its disk {record.uuid} is in the trash since {trashed.at}; starting the VM restores it",
            f"metastack vm start {vm}",
        )
    elif lies:
        yield error(
            f"vm {vm}",
            f"its disk {record.uuid} was moved to the trash by hand: the VM cannot start without it",
        )
    else:
        yield error(
            f"vm {vm}",
            f"its disk {record.uuid} is missing: restore it under its name, or rebuild it from its image",
            f"metastack vm rebuild {vm} --from-image --yes --reason WHY",
        )


def _volumes(facts: Facts) -> Iterator[tuple[VmId, Volume]]:
    """The disk's record of each VM that has a spec."""
    for vm, spec in facts.world.specs():
        if spec.record is not None:
            found = facts.world.volume(vm.project, spec.record.volume_uuid)
            if found is not None and found.record is not None:
                yield vm, found.record
