"""Coverage: which fault struck in the middle of which protocol step, over many seeds.

Owns: the table of fault kinds and steps, and which of its cells are empty.
Refuses: counting what cannot be: a fault is only counted in a step that was in progress at that moment, of its
victim, or of any node for faults of the whole cluster.
"""

from __future__ import annotations

from collections.abc import Mapping

from .by_hand import BY_HAND
from .catalogue import FAULTS, WISHES
from .schedule import STEPS

KINDS = tuple(verb for verb in FAULTS if verb not in WISHES and verb not in BY_HAND)
"""Fault kinds; what people wish is counted too, in one row."""
NEVER: Mapping[tuple[str, str], str] = {}
"""Cells that cannot be, each with the reason."""


def table(cells: Mapping[str, int]) -> str:
    """Readable: one row a fault kind, one column a step."""
    counts = _counts(cells)
    width = max(len(kind) for kind in KINDS) + 1
    heads = [" " * width + " ".join(f"{step[:8]:>8}" for step in STEPS)]
    for kind in (*KINDS, "wish"):
        row = [f"{counts.get((kind, step), 0):8d}" for step in STEPS]
        heads.append(f"{kind:<{width}}" + " ".join(row))
    return "\n".join(heads)


def empty(cells: Mapping[str, int]) -> list[str]:
    """Cells that no seed reached, as ``kind x step``."""
    counts = _counts(cells)
    return [
        f"{kind} x {step}"
        for kind in (*KINDS, "wish")
        for step in STEPS
        if not counts.get((kind, step)) and (kind, step) not in NEVER
    ]


def _counts(cells: Mapping[str, int]) -> dict[tuple[str, str], int]:
    counts: dict[tuple[str, str], int] = {}
    for cell, count in cells.items():
        kind, _, step = cell.partition(" ")
        kind = "wish" if kind in WISHES else kind
        counts[kind, step] = counts.get((kind, step), 0) + count
    return counts
