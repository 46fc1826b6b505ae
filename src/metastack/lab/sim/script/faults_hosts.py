"""Verbs of one host's own trouble: a full disk, a QEMU that does not start, a key that is refused.

Owns: these verbs. Refuses: being counted: no cell of coverage is theirs.
"""

from __future__ import annotations

from typing import Final

from ....ports import CannotStart
from ..engine.host import FULL
from ..engine.lab import Lab
from .verbs import FAULTS, Undo, fault, host_of

_BEFORE: Final = frozenset(FAULTS)


@fault("state-full", "node", lasts=True)
def _state_full(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """The file system of a machine's state_dir is full: what is there stays, nothing new is written."""
    disk = host_of(lab, args).disk
    if FULL in disk:
        return None
    disk[FULL] = ""

    def end() -> None:
        disk.pop(FULL, None)

    return end


@fault("dies-in", "node", lasts=True)
def _dies_in(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """Every agent of a machine dies in that step, and is started again: ``dies-in n1 declare``."""
    host, step = host_of(lab, args), args[1]
    host.dies_in = step

    def end() -> None:
        host.dies_in = ""

    return end


@fault("start-fails", "node", lasts=True)
def _start_fails(lab: Lab, args: tuple[str, ...]) -> Undo | None:
    """QEMU does not start on a machine, and says so; with VMs' names only theirs: ``start-fails n1 vm1``."""
    hypervisor, names = host_of(lab, args).hypervisor, args[1:]
    before, lasts = hypervisor.fail, [True]

    def fail(what: str, uuid: str) -> Exception | None:
        spec = hypervisor.specs.get(uuid)
        if lasts and what == "start" and (not names or (spec is not None and spec.name in names)):
            return CannotStart("QEMU does not start here")
        return before(what, uuid)

    def end() -> None:
        lasts.clear()  # faults of one host may end in another order than they began

    hypervisor.fail = fail
    return end


HOSTS: Final = frozenset(FAULTS) - _BEFORE
"""Verbs that coverage does not count."""
