"""Verbs of one host's own trouble: a full disk, a QEMU that does not start, a key that is refused.

Owns: these verbs. Refuses: being counted: no cell of coverage is theirs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from .host import FULL
from .verbs import FAULTS, Undo, fault, host_of

if TYPE_CHECKING:
    from .lab import Lab

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


HOSTS: Final = frozenset(FAULTS) - _BEFORE
"""Verbs that coverage does not count."""
