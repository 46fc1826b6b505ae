"""Delays: how long a rank leaves a VM to those before it.

Owns: what each of them gets. Refuses: clocks; who waits knows since when.
Rule: nobody is waited for in vain where that can be known: not who has no room any more, and not for long who
let others take what was its to take.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from ..model import VmSpec
from . import filters
from .misses import Misses
from .nodes import NodeView

LONGEST_MS: Final = 1000
"""Of one node, whatever lag it publishes."""


def delay_ms(spec: VmSpec, before: Iterable[NodeView], step_ms: int, misses: Misses) -> int:
    """What those nodes get together, best first.

    Each the cluster's rank delay, or three quarters of the lag that it publishes (rounded up to a power of two)
    if that is longer; a third of the rank delay if it missed and is tried, since it may be deaf. The first
    always; the others only while they have room: a burst fills a whole head.
    """
    counted = (node for at, node in enumerate(before) if not at or filters.has_room(spec, node))
    return sum(_of(node, step_ms, misses) for node in counted)


def _of(node: NodeView, step_ms: int, misses: Misses) -> int:
    if node.name in misses.count:
        return step_ms // 3
    return max(step_ms, min(node.lag_ms * 3 // 4, LONGEST_MS))
