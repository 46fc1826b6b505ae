"""What keeps a removal from forgetting a node that somebody still needs to fence, as mutations.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, Patch, agent

_REMOVAL: Final = "core.removal"

TABLE: Final[tuple[Mutation, ...]] = (
    Mutation(
        "removal-sessions-tell",
        "a node that had another session since is not forgotten: its registration takes the mark away",
        (Patch("core.changes", "register", "Delete(keys.removal(alive.name)),", ""),),
        ("removal-arrives-behind-a-session",),
        evidence="expected",
        because="without its addresses nobody can fence it, and its VM waits until it returns",
    ),
    Mutation(
        "removal-mark",
        "what is forgotten is compared with the mark that sessions take away",
        (Patch(_REMOVAL, "remove_node", "unchanged(keys.removal(node), mark),", ""),),
        ("removal-arrives-behind-a-session",),
        evidence="expected",
        because="without its addresses nobody can fence it, and its VM waits until it returns",
    ),
    Mutation(
        "removal-fence-stays",
        "a removed node that returns is known by its fence",
        agent(
            "past",
            "Past._knows_me",
            "mine = (self._keys.node_facts(self._name), self._keys.fence(self._name))",
            "mine = (self._keys.node_facts(self._name),)",
        ),
        ("removed-node-returns",),
        evidence="expected",
        because="it takes this etcd for a strange one and stays away",
    ),
)
