"""Rate limits: how often a node does what all others pay for, so that the sum stays bounded.

Owns: the two figures that follow the number of nodes. Refuses: anything that safety or a decision waits for:
claims, turns, fences and leases have times of their own, and those do not grow.
Rule: in clusters of up to a hundred nodes nothing is slower than it was with three.
"""

from __future__ import annotations

from math import ceil
from typing import Final

SUMS_EVERY_S: Final = 5.0
"""How often a node publishes the sums over its VMs, at most, while nothing else changes."""
SUMS_A_SECOND: Final = 20.0
"""Of all nodes together, at most: each is a message to every agent. 100 nodes reach it at that pace."""
LISTED_A_SECOND: Final = 100_000
"""Records that all agents together list, at most, of 0.4 kB each: about those of 200 nodes with 20 VMs each."""
LONGEST_S: Final = 3600.0
"""Nobody goes without a list for longer, whatever the size."""


def sums_every_s(nodes: int) -> float:
    """Time between two announcements that say new sums only.

    Nothing is decided by them: placement counts the claims, which everybody sees at once and exactly, and so do
    readers. Late sums are late for who reads the record itself.
    """
    return max(SUMS_EVERY_S, nodes / SUMS_A_SECOND)


def full_looks_per_list(full_look_s: float, nodes: int, records: int) -> int:
    """How often a full look lists everything from etcd: once in this number; the others look at what is known.

    The watch tells what changes and breaks loudly, and then everything is listed at once. The list is the net
    under a watch that loses events silently. What it lost of a node's own changes, or of a spec that another
    node acted on, is noticed at once (``ClusterState.lacks``, ``ClusterState.missed_key``), so hard limits
    hold; to find the rest later costs time only.
    """
    needed = ceil(nodes * records / (LISTED_A_SECOND * full_look_s))
    return max(1, min(needed, int(LONGEST_S // full_look_s)))
