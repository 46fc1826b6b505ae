"""Delays: how long a rank leaves a VM to the nodes before it.

Owns: what each of them gets. Refuses: clocks; the waiting node knows since when.
Rule: no node is waited for in vain where that can be known. A node that missed its turn is not waited for long.
While there are such nodes, a node without capacity is not waited for.
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
    if that is longer; a third of the rank delay if it missed and is tried, since it may be deaf.

    A burst fills a whole head. Where no node is deaf its time is short, and well spent: a waiting node decides
    from news of where the burst went, and packs tighter. While any node missed, a node without capacity is not
    waited for, but for the first.
    """
    counted = (
        node for at, node in enumerate(before) if not at or not misses.count or filters.has_capacity(spec, node)
    )
    return sum(_of(node, step_ms, misses) for node in counted)


def _of(node: NodeView, step_ms: int, misses: Misses) -> int:
    if node.name in misses.count:
        return step_ms // 3
    return max(step_ms, min(node.lag_ms * 3 // 4, LONGEST_MS))
