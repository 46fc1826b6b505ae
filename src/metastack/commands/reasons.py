"""Why nobody takes a VM, in one line: the reason that most nodes give.

Owns: counting reasons. Refuses: finding them (:mod:`metastack.core.placement`).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")


def main_reason(reasons: Mapping[str, tuple[str, ...]]) -> str:
    """The reason of most nodes, with how many; what differs from node to node counts as the same."""
    if not reasons:
        return "no node has joined"
    if "" in reasons:
        return "; ".join(reasons[""])
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    for node in sorted(reasons):
        for text in reasons[node]:
            kind = _NUMBER.sub("#", text.partition(", the node ")[0])
            counts[kind] += 1
            first.setdefault(kind, text if len(reasons) == 1 else f"{node}: {text}")
    if not counts:
        return "it does not fit beside the others"
    kind, count = max(counts.items(), key=lambda one: (one[1], one[0]))
    if len(reasons) == 1:
        return f"{next(iter(reasons))}: {first[kind]}"
    return f"{count} of {len(reasons)} nodes, such as {first[kind]}"
