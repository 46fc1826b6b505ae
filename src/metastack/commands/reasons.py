"""Why nobody takes a VM, in one line: the reason that most nodes give.

Owns: counting reasons. Refuses: finding them (:mod:`metastack.core.placement`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

_SHOWN: Final = 2
_NUMBER: Final = re.compile(r"[0-9]+(\.[0-9]+)?")
_LOST: Final = "the node is lost"


def main_reason(reasons: Mapping[str, tuple[str, ...]]) -> str:
    """The reasons of most nodes, each with one of them and how many more; numbers that differ count as one.

    That lost nodes take nothing goes without saying while there are others.
    """
    if not reasons:
        return "no node has joined"
    if "" in reasons:
        return "; ".join(reasons[""])
    nodes: dict[str, list[str]] = {}
    first: dict[str, str] = {}
    for node in sorted(reasons):
        for text in reasons[node]:
            kind = _NUMBER.sub("#", text.partition(", the node ")[0])
            nodes.setdefault(kind, []).append(node)
            first.setdefault(kind, text)
    kinds = [kind for kind in nodes if not kind.startswith(_LOST)] or list(nodes)
    if not kinds:
        return "it does not fit together with the other VMs"
    kinds.sort(key=lambda kind: (-len(nodes[kind]), not kind.startswith("needs #"), kind))
    told = [f"{first[kind]} ({_whose(nodes[kind])})" for kind in kinds[:_SHOWN]]
    return "; ".join(told) + ("; ..." if len(kinds) > _SHOWN else "")


def _whose(nodes: Sequence[str]) -> str:
    return nodes[0] + (f" and {len(nodes) - 1} more" if len(nodes) > 1 else "")
