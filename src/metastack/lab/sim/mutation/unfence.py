"""Mutations: whose block a person lifts, and a fence whose record is gone.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, Patch

_SHARED: Final = "test:contract/commands/test_unfence_shared.py"

UNFENCE: Final[tuple[Mutation, ...]] = (
    Mutation(
        "unfence-of-another",
        "the block of an address that another node has by now is not lifted by hand",
        (
            Patch(
                "commands.fence.requests",
                "_may_be_lifted",
                "refuse_shared(world, node, known.storage_addresses)",
                "pass",
            ),
        ),
        (_SHARED,),
        evidence="test",
        because="nobody lifts a block by hand in the simulated cluster",
    ),
    Mutation(
        "unfence-holds-the-address",
        "while its block is lifted, a node that was removed holds its addresses",
        (
            Patch(
                "core.protocol.fences",
                "lifted",
                "if declared is not None and (facts is None or facts.record != declared):",
                "if declared is not None and facts is not None and facts.record != declared:",
            ),
        ),
        (_SHARED,),
        evidence="test",
        because="nobody lifts a block by hand in the simulated cluster",
    ),
    Mutation(
        "unfence-of-one-that-came-back",
        "what a node declared since it was looked at stays: its next fence reads it",
        (Patch("core.protocol.fences", "lifted", "unchanged(key, facts)", "*()"),),
        (_SHARED,),
        evidence="test",
        because="nobody lifts a block by hand in the simulated cluster",
    ),
    Mutation(
        "fence-record-gone",
        "a fence of which no record is left proves nothing",
        (Patch("agent.fencing.fence_check", "lifted", "if not world.session(name):", "if False:"),),
        ("test:unit/agent/test_fence_check.py",),
        evidence="test",
        because="nobody deletes a fence in the simulated cluster",
    ),
)
