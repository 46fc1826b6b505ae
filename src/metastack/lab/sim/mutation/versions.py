"""What lets a cluster be upgraded node by node, as mutations.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, Patch

VERSIONS: Final[tuple[Mutation, ...]] = (
    Mutation(
        "versions-agents",
        "agents write records of the cluster's level, not of their own",
        (
            Patch(
                "ports.levelled",
                "Levelled.commit",
                "written(change, self._keys, self._level())",
                "change",
            ),
        ),
        ("upgraded-node-by-node",),
        evidence="stuck",
        because="what an agent of the release before cannot read, it leaves alone",
    ),
    Mutation(
        "versions-finish",
        "the level rises only when every living node has said that it understands it",
        (
            Patch(
                "commands.cluster.upgrade_views",
                "behind",
                "elif (knows := understood(world, name)) < level:",
                "elif (knows := understood(world, name)) < 0:",
            ),
        ),
        ("upgraded-node-by-node",),
        evidence="stuck",
        because="what an agent of the release before cannot read, it leaves alone",
    ),
)
