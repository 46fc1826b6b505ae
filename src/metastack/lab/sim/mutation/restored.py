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
        agent("reconcile.snapshot", "look", "held=node.held(),", 'held="",'),
        ("restored-and-a-node-stays-away",),
    ),
    Mutation(
        "restored-claim",
        "a claim of before the restore that no domain proves is given back, never booted under",
        plan("if token_generation(claim.epoch) < snapshot.generation:", "if False:", "_mine"),
        ("restored-and-raised",),
    ),
    Mutation(
        "restored-away",
        "a node that has not come back since the restore is fenced by people only",
        plan("if snapshot.away and not by_hand:", "if False:", "plan_fence"),
        ("restored-and-a-moved-node-stays-away",),
    ),
    Mutation(
        "restored-sessions",
        "the raised generation ends every session that the backup knows",
        (
            Patch(
                "core.protocol.restored",
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
        agent("session.stale_domains", "_lost", "if world.generation > written:", "if False:"),
        ("restored-and-damaged",),
    ),
    Mutation(
        "restored-open-fence",
        "a fence that was open in the backup is nobody's work: its node does not wait for it",
        agent(
            "session.session",
            "Session._fence_record",
            "if under_way(found.record, self._informer.world.generation):",
            "if found.record.intent:",
        ),
        ("restored-with-an-open-fence",),
        evidence="stuck",
        because="the fencer leaves a node that is not back to people, and that node waits for it",
    ),
    Mutation(
        "restored-raised-late",
        "a session begins in a generation that a listing of its node was judged by on the way",
        agent(
            "session.identity",
            "believed_generation",
            "if not etcd_recognised or world.generation != informer.etcd_history.known.generation:",
            "if False:",
        ),
        ("restored-and-raised-twice",),
        evidence="expected",
        because="the node does nothing more for its VMs, until its session ends",
    ),
    Mutation(
        "restored-own-write",
        "a change of the history before is not looked for in this one",
        agent(
            "context",
            "AgentContext.commit",
            "if self.informer.etcd_history.history != floor.history:",
            "if False:",
        ),
        ("restored-while-a-release-is-on-its-way",),
        evidence="stuck",
        because="a node that looks for it for ever does nothing",
    ),
    Mutation(
        "restored-another-history",
        "what was asked for before another history began says nothing of that",
        agent("session.etcd_history", "EtcdHistory.judge", "if floor.history != self.history:", "if False:"),
        ("test:unit/agent/test_etcd_history.py",),
        evidence="test",
        because="the node refuses the etcd that a person let it use, until they do it again",
    ),
)
