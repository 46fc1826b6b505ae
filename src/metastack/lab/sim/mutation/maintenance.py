"""What a maintenance holds back, as mutations.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, Patch, agent, fence_guard, guard, plan

_GUARD: Final = "unpaused(keys)"
_NO_DISK: Final = "no disk is in danger: fences and takeovers are safe with a maintenance or without"
_WITHDRAW: Final = agent(
    "fencing.fencer", "Fencer._withdrawn", "self.braked or paused(node.world)", "self.braked"
)


def _pause(name: str, step: str, patches: tuple[Patch, ...], scenario: str) -> Mutation:
    return Mutation(name, step, patches, (scenario,), evidence="expected", because=_NO_DISK)


PAUSE: Final[tuple[Mutation, ...]] = (
    _pause(
        "pause-fence",
        "no fence begins under maintenance: asked before the intent, in it, and behind it",
        (
            *plan("snapshot.paused or snapshot.expected", "snapshot.expected", "plan_fence"),
            *fence_guard("intent", _GUARD),
            *_WITHDRAW,
        ),
        "maintenance-holds-a-fence",
    ),
    _pause(
        "pause-fence-late",
        "an intent that was on its way while a maintenance began fails, or is withdrawn",
        (*fence_guard("intent", _GUARD), *_WITHDRAW),
        "maintenance-before-the-intent",
    ),
    _pause(
        "pause-takeover",
        "a takeover that was on its way while a maintenance began fails",
        guard("takeover", _GUARD),
        "maintenance-before-the-takeover",
    ),
    _pause(
        "pause-silent",
        "no node is fenced for a silent storage under maintenance",
        (
            *agent(
                "fencing.silent_nodes",
                "SilentNodes._snapshot",
                "paused(world) or too_many(world)",
                "too_many(world)",
            ),
            Patch("core.protocol.silence", "intent_silent", _GUARD, "*()"),
        ),
        "maintenance-and-a-silent-storage",
    ),
    _pause(
        "pause-drain",
        "no VM is stopped to run elsewhere under maintenance",
        agent("reconcile.evacuation", "Evacuation.look", "paused(node.world) or", ""),
        "maintenance-holds-a-drain",
    ),
    _pause(
        "pause-give-back",
        "no VM that cannot start here is given to others under maintenance",
        plan("snapshot.give_back and not snapshot.paused", "snapshot.give_back", "_mine"),
        "maintenance-holds-a-vm-that-cannot-start",
    ),
    _pause(
        "pause-ends",
        "a maintenance is leased: it ends by itself",
        (Patch("core.protocol.maintenance", "begin", "leased=True", "leased=False"),),
        "maintenance-and-restarted-agents",
    ),
    _pause(
        "pause-ends-twice",
        "a maintenance whose lease a new leader of etcd began again is ended by a node that watched it",
        agent("reconcile.event_router", "everything", "TTL, MAINTENANCE", "TTL"),
        "maintenance-and-a-new-leader",
    ),
    _pause(
        "pause-over",
        "the end of a maintenance is looked at once, not with the next full look",
        agent("agent", "Agent._changed", "Kind.MAINTENANCE in kinds or", ""),
        "maintenance-ended-early",
    ),
)
