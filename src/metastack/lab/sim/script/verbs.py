"""The verbs of the script language: what a fault is, and the register of all of them.

Owns: the shape of a verb. Refuses: doing anything; ``faults``, ``faults_outside`` and ``wishes`` do.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from ..engine.host import SimHost
from ..engine.lab import Lab

Undo = Callable[[], None]
Apply = Callable[[Lab, tuple[str, ...]], Undo | None]


def nothing() -> None:
    """The end of a fault that needs none."""


@dataclass(frozen=True)
class Fault:
    """One verb."""

    scope: str
    """``node``: its victim is the node among its arguments; ``vm``; ``cluster``."""
    lasts: bool
    """It has an end: ``for SECONDS``."""
    apply: Apply
    """Do it; returns how it ends, or None when there was nothing to do."""
    doc: str
    at_once: bool = False
    """It concerns the very request that is about to be sent."""


FAULTS: Final[dict[str, Fault]] = {}


def fault(verb: str, scope: str, *, lasts: bool = False, at_once: bool = False) -> Callable[[Apply], Apply]:
    """Register what a verb does."""

    def register(apply: Apply) -> Apply:
        FAULTS[verb] = Fault(scope, lasts, apply, (apply.__doc__ or "").strip(), at_once)
        return apply

    return register


def host_of(lab: Lab, args: tuple[str, ...]) -> SimHost:
    """The node that is the first argument."""
    return lab.hosts[args[0]]
