"""Announcements of other nodes: which of them change a decision, and which carry only new sums.

Owns: what each node said last. Refuses: placement (an engine follows every announcement), and this node's own
word.
Rule: an announcement costs nothing where only sums changed. In a burst every node says new ones every few
seconds, to every other; a look at all nodes for each would cost a cluster the square of its nodes.

# Safety: a node that vanished, came back or is another session is always news: the alive key's creation is
compared with what was said, and a node that is gone is forgotten.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from ...core.model import NodeAlive, Resources
from ...core.state.cluster_state import ClusterState
from ...core.state.keys import Kind, ParsedKey


class NodeChanges:
    """What every other node said last."""

    def __init__(self, me: str) -> None:
        self._me = me
        self._said: dict[str, tuple[int, NodeAlive]] = {}

    def news(self, touched: Iterable[ParsedKey], world: ClusterState) -> set[ParsedKey]:
        """What is left of these without announcements of new sums."""
        return {key for key in touched if key.kind is not Kind.NODE_ALIVE or self._is_news(key.names[0], world)}

    def _is_news(self, name: str, world: ClusterState) -> bool:
        found = world.alive(name)
        if found is None or found.record is None:
            self._said.pop(name, None)
            return True
        said = found.create, msgspec.structs.replace(found.record, allocated=Resources(), vms=0, lag_ms=0)
        if self._said.get(name) == said and name != self._me:
            return False
        self._said[name] = said
        return True
