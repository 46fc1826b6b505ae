"""Garbage collection: how often Python looks for objects that only hold each other.

Owns: the collector's pace in an agent's process. Refuses: switching it off.
Rule: what an agent drops is freed at once by its last reference, but for a few circles (errors with their
tracebacks). Its world is large and stays: looked through each time that 700 objects are new, as Python does by
default, it took a tenth of an agent's work in a burst.
"""

from __future__ import annotations

import gc
from typing import Final

PACE: Final = (10_000, 10, 10)
"""New objects between two looks at the young, such between two at older ones, those between two at all."""


def collect_rarely() -> None:
    """From the start of the process."""
    gc.set_threshold(*PACE)


def freeze_startup_objects() -> None:
    """Once everything has been listed: code and the world of that moment are not looked through again."""
    gc.collect()
    gc.freeze()
