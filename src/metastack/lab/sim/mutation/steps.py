"""The agent's steps and the rulebook's rules as mutations.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
Rule: where two steps cover each other, the entry takes both away, and says why.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, Patch, agent, plan

STEPS: Final[tuple[Mutation, ...]] = (
    # --- sessions
    Mutation(
        "quiesce",
        "before registering: no thread of an older session is at work",
        agent("session.session", "Session._join", "await self._quiesce()"),
        ("thread-lands-in-the-next-session",),
    ),
    Mutation(
        "barrier",
        "after an unclean exit libvirtd is restarted before anything is looked at (CE3)",
        agent("session.session", "Session._join", "await self._hypervisor.barrier()"),
        ("kill-left-by-a-dead-agent",),
    ),
    Mutation(
        "kill-fenced",
        "before registering: what is fenced is killed (and the unblock's own look for guests)",
        (
            *agent("session.session", "Session._join", "await self._kill_fenced(fence)"),
            Patch(
                "agent.session.session",
                "Session._unblock",
                "if any(domain.managed for domain in await self._hypervisor.domains()):",
                "if False:",
            ),
        ),
        ("returns-before-its-guest-notices",),
    ),
    Mutation(
        "unblock-before-kill",
        "the block is lifted after the kill, not before",
        (
            *agent(
                "session.session",
                "Session._join",
                "await self._kill_fenced(fence)",
                "await self._storage.unfence(self._addresses)\n        await self._kill_fenced(fence)",
            ),
        ),
        ("returns-before-its-guest-notices",),
    ),
    Mutation(
        "ready-after-unblock",
        "ready only after a confirmed unblock",
        agent("session.session", "Session._unblock", "await self._storage.unfence(blocked)"),
        ("power-cut-and-return",),
        evidence="stuck",
        because="a node that is shut out writes nothing; its guests only stop",
    ),
    Mutation(
        "unblock-mark",
        "an unblock under way is marked on the disk before it is sent (CE7)",
        agent("session.session", "Session._unblock", "await self._config_retry.wait(self._begin_unblock)"),
        ("unblock-pending-when-its-agent-dies",),
    ),
    Mutation(
        "unblock-wait",
        "an unblock that a dead agent sent is waited for (CE7)",
        agent("session.session", "Session._unblock", "await asyncio.sleep(PENDING_UNBLOCK_S)"),
        ("unblock-pending-when-its-agent-dies",),
    ),
    Mutation(
        "own-key-gone",
        "a session whose alive key is gone is over, whatever renewals say",
        agent("session.session", "Session.check", 'self.lose("my alive key is gone")'),
        ("lease-revoked-and-renewal-lies", "alive-key-deleted-by-hand"),
        evidence="expected",
        because="every transaction of such a session fails on its guard; it only would not come back",
    ),
    # --- the rulebook
    Mutation(
        "plan-ready",
        "nothing is claimed or booted before ready (CE1)",
        plan("if not snapshot.ready:", "if False:"),
        ("test:unit/core/test_plan.py",),
        evidence="test",
        because="a node that is not ready has no rank for a claim, and a boot looks once more",
    ),
    Mutation(
        "plan-covered-fenced",
        "a guest of a fenced session is killed",
        plan(" and claim.session > snapshot.fenced_through", "", "_covered"),
        ("test:unit/core/test_plan.py",),
        evidence="test",
        because="the way back kills it before it registers; this is the rule for a node without a session",
    ),
    Mutation(
        "plan-covered-node",
        "a guest whose claim is another node's is killed",
        plan("claim.node == snapshot.node and ", "", "_covered"),
        ("test:unit/core/test_plan.py",),
        evidence="test",
        because="the way back kills it before it registers; this is the rule for a node without a session",
    ),
    Mutation(
        "plan-epoch",
        "a guest of a stale epoch is killed",
        plan("domain.epoch != snapshot.claim.ok.epoch", "False"),
        ("test:unit/core/test_plan.py",),
        evidence="test",
        because="a claim gets a new epoch only when its domain is gone, or its node was fenced and killed it",
    ),
    Mutation(
        "plan-unmanaged",
        "a domain that is not ours is left alone: the rulebook's half",
        plan("if not domain.managed:", "if False:"),
        ("test:unit/core/test_plan.py",),
        evidence="test",
        because="the look for local domains does not show it",
    ),
    Mutation(
        "unmanaged",
        "a domain that is not ours is not the VM, whatever its UUID: neither managed, nor of its name",
        agent(
            "reconcile.vm_reconciler",
            "VmReconciler._domains",
            "and domain.managed and (domain.project, domain.name) == (vm.project, vm.name)",
            "",
        ),
        ("somebody-elses-domain-with-its-uuid",),
    ),
    Mutation(
        "plan-unreadable",
        "a VM whose claim cannot be read is left alone",
        plan("if snapshot.claim is not None and snapshot.claim.record is None:", "if False:"),
    ),
    Mutation(
        "plan-adopt",
        "a claim of an older session is adopted before anything else",
        plan("if snapshot.claim.ok.session != snapshot.session:", "if False:"),
        evidence="stuck",
        because="the guards of every transaction refuse a claim of another session",
    ),
    Mutation(
        "plan-kill-before-release",
        "a claim is released only without a domain",
        plan(
            'Kill(domain.uuid, "deleted") if domain is not None else Release(drop_halt=spec is None)',
            "Release(drop_halt=spec is None)",
            "_mine",
        ),
    ),
    Mutation(
        "plan-halt",
        "that a guest switched itself off is made durable before the release",
        plan("return RecordHalt()", "return Release()", "_mine"),
        ("guest-off-then-node-dies",),
        evidence="expected",
        because="what a guest requested, not a writer: the VM would run again",
    ),
    Mutation(
        "fence-alive",
        "a living node is not fenced (the rulebook's half; the guard is intent-absent)",
        plan("if snapshot.victim_alive:", "if False:", "plan_fence"),
        ("test:unit/core/test_plan.py",),
        evidence="test",
        because="the guard intent-absent covers it: this spares transactions in vain",
    ),
    Mutation(
        "fence-brake",
        "nothing is fenced while the brake holds: asked before the intent, and behind it",
        (
            *plan("if snapshot.braked:", "if False:", "plan_fence"),
            *agent("fencing.fencer", "Fencer._withdrawn", "self.braked or paused", "paused"),
        ),
        ("two-of-three-lost",),
        evidence="expected",
        because="a fence with many nodes gone is safe; the brake spares guests that run well",
    ),
    Mutation(
        "fence-brake-again",
        "an intent that was on its way while the brake engaged is withdrawn",
        agent("fencing.fencer", "Fencer._withdrawn", "self.braked or paused", "paused"),
        ("intent-arrives-behind-the-brake",),
        evidence="expected",
        because="a fence with many nodes gone is safe; the brake spares guests that run well",
    ),
    Mutation(
        "brake-counts",
        "the brake engages when too many vanish together",
        agent("fencing.fencer", "Fencer._brake", "most * 100 > config.brake_percent * len(joined)", "False"),
        ("two-of-three-lost",),
        evidence="expected",
        because="a fence with many nodes gone is safe; the brake spares guests that run well",
    ),
    Mutation(
        "brake-old-receipt",
        "an old fence receipt does not hide that a node vanished just now",
        agent("fencing.fencer", "Fencer._brake", "if now_s - at_s > window_s", "if True"),
        ("regression:brake-old-receipt",),
    ),
    Mutation(
        "brake-settings-kept",
        "settings that cannot be read any more are the last that could be",
        (
            Patch(
                "core.state.effective_config",
                "EffectiveConfig.note",
                "self._read or CAREFUL",
                "ClusterConfig() if self.why else self._read",
            ),
        ),
        ("settings-unreadable",),
        evidence="expected",
        because="a fence against a person's brake is safe",
    ),
    Mutation(
        "fence-settings-known",
        "who never could read the settings fences nobody, also when a person asks for it",
        agent(
            "fencing.fencer", "Fencer.consider", "if not self._node.world.known_config.was_read:", "if False:"
        ),
        ("settings-unreadable-at-a-start",),
        evidence="expected",
        because="it would be a fence; but perhaps of an address that others have too",
    ),
    Mutation(
        "clients-by-receipt",
        "who was fenced by single clients is looked for, whatever the settings say by now",
        agent("reconcile.domain_actions", "DomainActions._by_clients", "return by_receipt or", "return"),
        ("fencing-turned-back-before-the-takeover",),
    ),
    Mutation(
        "gate-circle",
        "VMs that start after each other in a circle hold nobody",
        (Patch("core.placement.start_order", "awaited", " and not _starts_after(world, other, vm)", ""),),
        ("starts-after-in-a-circle",),
        evidence="stuck",
        because="VMs that wait for each other write nothing",
    ),
)
