"""How many claims each session of a node holds: what a fence has to cover.

Owns: the count, made once for as long as the claims stay as they are. Refuses: knowing which are fenced.
"""

from __future__ import annotations

from collections.abc import Iterable

from ..model import Claim
from .seen import Seen


class ClaimCounts:
    """Claims by node and session.

    When a rack is gone each of its nodes is asked about: every claim would be looked at once for each.
    """

    def __init__(self) -> None:
        self._of: dict[str, dict[int, int]] | None = None

    def forget(self) -> None:
        """A claim changed."""
        self._of = None

    def of(self, node: str, claims: Iterable[Seen[Claim]]) -> dict[int, int]:
        """Of that node: how many claims each of its sessions bears."""
        if self._of is None:
            self._of = {}
            for found in claims:
                if (claim := found.record) is not None:
                    sessions = self._of.setdefault(claim.node, {})
                    sessions[claim.session] = sessions.get(claim.session, 0) + 1
        return self._of.get(node, {})
