"""The list of all mutations: the transactions' guards, the agent's steps, and controls.

Owns: what is in the list. Refuses: the entries themselves (:mod:`.guards`, :mod:`.steps` and others).
Rule: a control takes nothing away, or only what the argument does not need, and must stay green.
"""

from __future__ import annotations

from typing import Final

from .actions import ACTIONS
from .availability import AVAIL
from .boot_gate import GATE
from .by_hand import TABLE
from .guards import GUARDS
from .hosts import HOSTS
from .machines import ONE_MACHINE
from .maintenance import PAUSE
from .mutation import FENCES, SESSION, Mutation, Patch, agent, fence_guard, guard, plan
from .name_hold import NAME_HOLD
from .not_found import NOT_FOUND
from .ownership import OWNER
from .restored import RESTORED
from .shutdown import SHUTDOWN
from .silence import SILENT
from .steps import STEPS
from .storage import STORAGE
from .unfence import UNFENCE
from .versions import VERSIONS

NEEDLESS: Final[tuple[tuple[str, tuple[Patch, ...]], ...]] = (
    (
        "a done fence only grows, and the claim that it reached is compared (exhaustive checker: g_cl_f=0)",
        guard("takeover", "unchanged(keys.fence(old.ok.node), fence)"),
    ),
    (
        "what is taken over for an old spec is released for the new one (exhaustive checker: g_cl_s=0)",
        guard("takeover", "unchanged(keys.vm_spec(vm), spec)"),
    ),
    (
        "an unchanged claim of a dead session has no domain by then (the exhaustive checker has no such guard)",
        guard("release", SESSION),
    ),
    ("a halt is of one run, and a start raises it", guard("halt", "unchanged(keys.vm_spec(vm), spec)")),
    (
        "a halt that a spec voids stays void, whoever forgets it",
        guard("forget_halt", "unchanged(keys.vm_spec(vm), spec)", SESSION),
    ),
    ("a disk's UUID never returns", guard("forget_volume", "unchanged(key, found)", SESSION)),
    (
        "a block is true whoever lives, and done compares the record (exhaustive checker: g_int_me=0)",
        (
            *fence_guard("intent", SESSION),
            *fence_guard("pass_intent", SESSION),
            *fence_guard("take_over_intent", SESSION),
        ),
    ),
    (
        "two that block one node do no harm, one of them is done (the exhaustive checker has no such guard)",
        (Patch(FENCES, "take_over_intent", "if found.ok.intent_by != me.node:", "if False:"),),
    ),
    (
        "an intent is younger than every fence before it",
        (
            Patch(
                FENCES,
                "done",
                "through=max(mine.ok.through, resolved_intent(mine.ok, mine.mod))",
                "through=resolved_intent(mine.ok, mine.mod)",
            ),
        ),
    ),
    (
        "a guest is booted under a claim that its node has seen, and no picture grows older",
        agent("reconcile.vm_reconciler", "VmReconciler._do", "if await self._still_so(snapshot):", "if True:"),
    ),
    (
        "the storage refuses the guest in any case; the node comes back a full look later",
        agent(
            "reconcile.domain_actions",
            "DomainActions.boot",
            'node.session.lose(f"the storage blocks this node: {error}")',
        ),
    ),
    (
        "the storage refuses the guest in any case",
        agent(
            "reconcile.domain_actions", "DomainActions.resume", "if await node.session.shut_out():", "if False:"
        ),
    ),
    (
        "the registration's guard refuses",
        agent(
            "session.session",
            "Session._fence_record",
            'raise Refused(f"the fence record of this node cannot be read: {found.why}")',
            "return None",
        ),
    ),
)
"""Guards and looks that are kept for comfort, or as a second line: why, and how to go without them."""

MUTATIONS: Final[tuple[Mutation, ...]] = (
    *GUARDS,
    *STEPS,
    *ACTIONS,
    *RESTORED,
    *HOSTS,
    *OWNER,
    *NAME_HOLD,
    *AVAIL,
    *ONE_MACHINE,
    *GATE,
    *STORAGE,
    *TABLE,
    *VERSIONS,
    *SILENT,
    *NOT_FOUND,
    *UNFENCE,
    *PAUSE,
    *SHUTDOWN,
    # --- controls
    Mutation("control-nothing", "no step is taken away", (), harmless=True),
    Mutation(
        "control-grace",
        "the grace is comfort, not safety",
        plan("snapshot.absent_for_s < snapshot.grace_s", "False", "plan_fence"),
        harmless=True,
    ),
    Mutation(
        "control-intent-through",
        "an intent that is taken over keeps its reach: needless, since a living node has no open intent",
        (
            Patch(
                FENCES,
                "take_over_intent",
                "intent_through=resolved_intent(found.ok, found.mod)",
                "intent_through=0",
            ),
        ),
        harmless=True,
    ),
    Mutation(
        "control-needless",
        "what the argument does not need, all of it at once: each line says why",
        tuple(patch for _, patches in NEEDLESS for patch in patches),
        harmless=True,
    ),
)
