"""The list of all mutations: the transactions' guards, the agent's steps, and controls.

Owns: what is in the list. Refuses: the entries themselves (``mutation_guards``, ``mutation_steps``).
Rule: a control takes nothing away, or only comfort, and must stay green.
"""

from __future__ import annotations

from typing import Final

from .mutation import CHANGES, Mutation, Patch, plan
from .mutation_acts import ACTS
from .mutation_guards import GUARDS
from .mutation_steps import STEPS

MUTATIONS: Final[tuple[Mutation, ...]] = (
    *GUARDS,
    *STEPS,
    *ACTS,
    # --- controls
    Mutation("control-nothing", "no step is taken away", (), harmless=True),
    Mutation(
        "control-grace",
        "the grace is comfort, not safety",
        plan("view.absent_for_s < view.grace_s", "False", "plan_fence"),
        harmless=True,
    ),
    Mutation(
        "control-intent-through",
        "an intent that is taken over keeps its reach: needless, since a living node has no open intent",
        (
            Patch(
                CHANGES,
                "take_over_intent",
                "intent_through=resolved_intent(found.ok, found.mod)",
                "intent_through=0",
            ),
        ),
        harmless=True,
    ),
)
