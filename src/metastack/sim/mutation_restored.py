"""What keeps a restored etcd from being believed too early, as mutations.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
Rule: where two steps cover each other, the entry takes both away, and says why.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, Patch, agent, plan

RESTORED: Final[tuple[Mutation, ...]] = (
    Mutation(
        "restored-held",
        "after a restore nothing is claimed, taken over or booted before every node is back or fenced",
        agent("look", "look", "held=node.held(),", 'held="",'),
        ("restored-and-a-node-stays-away",),
    ),
    Mutation(
        "restored-claim",
        "a claim of before the restore that no domain proves is given back, never booted under",
        plan("if token_generation(claim.epoch) < view.generation:", "if False:", "_mine"),
        ("restored-and-raised",),
    ),
    Mutation(
        "restored-away",
        "a node that has not come back since the restore is fenced by people only",
        plan("if view.away and not by_hand:", "if False:", "plan_fence"),
        ("restored-and-a-moved-node-stays-away",),
    ),
    Mutation(
        "restored-sessions",
        "the raised generation ends every session that the backup knows",
        (
            Patch(
                "core.restored",
                "raise_generation",
                'Delete(alive, alive[:-1] + chr(ord("/") + 1)),',
                "",
            ),
        ),
        ("restored-and-not-noticed",),
        evidence="stuck",
        because="whoever is not back in the new generation is waited for, and does nothing",
    ),
    Mutation(
        "restored-damaged",
        "a domain that does not say its epoch keeps its node out after a restore, until a person decides",
        agent("kills", "_lost", "if world.generation > written:", "if False:"),
        ("restored-and-damaged",),
    ),
)
