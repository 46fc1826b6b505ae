"""The transactions' guards as mutations: every compare of every transaction that an agent makes.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
Rule: what two guards cover is one entry, and says so.
"""

from __future__ import annotations

from typing import Final

from .mutation import CLAIMS, SESSION, Mutation, Patch, agent, fence_guard, guard

_CLAIM_VOLUME: Final = (
    Patch(CLAIMS, "claim", "guards.append(absent(keys.volume(volume.project, volume.uuid)))", "pass"),
)
_STRANGE_CLAIM: Final = agent("reconcile.claimer", "Claimer.claim", "self._refuse_strange_disk(spec, memory)")
_STRANGE_BOOT: Final = agent(
    "reconcile.domain_actions",
    "DomainActions.boot",
    "foreign_owner := node.disks.foreign_owner(spec)",
    "foreign_owner := None",
)
"""Alone it is ``strange-disk-boot``: two projects' specs, which no claim sees."""

GUARDS: Final[tuple[Mutation, ...]] = (
    # --- the transactions' guards
    Mutation(
        "register-fence",
        "register: fences/me is the one that was looked at",
        guard("register", "unchanged(key, fence)"),
        ("late-registration-of-a-dead-agent",),
    ),
    Mutation(
        "register-fencer-look",
        "register: a node waits while a living fencer is at work on it",
        agent("session.session", "Session._fence_record", "if fencer is not None:", "if False:"),
        ("returns-while-being-fenced",),
        evidence="expected",
        because="a block that lands on a living node is found and lifted; waiting spares its guests that",
    ),
    Mutation(
        "relet-session",
        "moving to another lease: alive = S",
        guard("move_to_lease", SESSION),
        ("ttl-changed-and-lease-lost", "ttl-changed-and-key-deleted"),
    ),
    Mutation(
        "announce-session",
        "ready, announce: alive = S",
        guard("announce", SESSION),
        ("announcement-of-a-dead-session",),
    ),
    Mutation(
        "claim-absent",
        "claim: nobody has it",
        guard("claim", "absent(keys.claim(vm))"),
        ("two-nodes-claim-at-once",),
    ),
    Mutation(
        "claim-spec",
        "claim: the spec is the one that was decided on",
        guard("claim", "unchanged(keys.vm_spec(vm), spec)"),
        ("pin-changed-while-a-claim-is-on-its-way",),
        evidence="expected",
        because="what is started is what the spec says then; only a request would be overtaken",
    ),
    Mutation("claim-session", "claim: alive = S", guard("claim", SESSION), ("claim-of-a-dead-session",)),
    Mutation(
        "claim-group",
        "claim: the group versions of its rules are those that were looked at",
        guard("claim", "*compared"),
        ("group-claims-of-two-nodes-at-once",),
    ),
    Mutation(
        "claim-notice",
        "claim: no group rule that it bears on came since it was decided",
        guard("claim", "*compare_rule_versions(rule_versions)"),
        ("group-rule-comes-behind-a-claim-on-its-way",),
    ),
    Mutation(
        "claim-held-back-rule",
        "claim: the rule of a VM that is held back counts, too",
        (
            Patch(
                "core.placement.engine",
                "PlacementEngine._see",
                "self.groups.asks(vm, rules, ",
                "self.groups.asks(vm, rules if there or not spec.ha.start_after else None, ",
            ),
        ),
        ("group-rule-of-one-that-is-held-back",),
    ),
    Mutation(
        "claim-own-record",
        "claim: my own record is the one that I saw: no recall came after it was sent",
        guard("claim", "unchanged(keys.node_facts(me.node), facts)"),
        ("sibling-claim-arrives-late",),
    ),
    Mutation(
        "claim-recalled",
        "a claim whose outcome is unknown is recalled before its capacity is given to another",
        agent("reconcile.vm_reconciler", "VmReconciler._settle", "await self._claims.recall(vm)"),
        ("sibling-claim-arrives-late",),
    ),
    Mutation(
        "takeover-own-record",
        "takeover: my own record is the one that I saw: no recall came after it was sent",
        guard("takeover", "unchanged(keys.node_facts(me.node), facts)"),
        ("sibling-takeover-arrives-late",),
    ),
    Mutation(
        "takeover-notice",
        "takeover: no group rule that it bears on came since it was decided",
        guard("takeover", "*compare_rule_versions(rule_versions)"),
        ("group-rule-comes-behind-a-takeover",),
    ),
    Mutation(
        "takeover-to-release",
        "takeover: a VM that was off when it was taken over is given back, never started under that claim",
        (Patch("core.plan", "_mine", " or claim.to_release", ""),),
        ("taken-over-to-be-released-and-started",),
    ),
    Mutation(
        "takeover-claim",
        "takeover: the claim is unchanged",
        guard("takeover", "unchanged(keys.claim(vm), old)"),
        ("takeover-arrives-late",),
    ),
    Mutation(
        "takeover-session",
        "takeover: alive = S",
        guard("takeover", SESSION),
        ("takeover-of-a-dead-session",),
    ),
    Mutation("adopt-claim", "adopt: the claim is unchanged", guard("adopt", "unchanged(keys.claim(vm), old)")),
    Mutation("adopt-session", "adopt: alive = S", guard("adopt", SESSION), ("adoption-of-a-dead-session",)),
    Mutation(
        "release-claim",
        "release: the claim is unchanged",
        guard("release", "unchanged(keys.claim(vm), held)"),
        ("release-arrives-late",),
    ),
    Mutation(
        "intent-absent",
        "intent: the victim's alive key is absent in that transaction",
        fence_guard("intent", "absent(keys.node_alive(victim))"),
        ("intent-arrives-late",),
    ),
    Mutation(
        "intent-fence",
        "intent: the fence record is unchanged",
        fence_guard("intent", "unchanged(keys.fence(victim), found)"),
        ("intent-lands-on-a-fence",),
    ),
    Mutation(
        "done-fence",
        "done: only my own, unchanged intent is closed",
        fence_guard("done", "unchanged(keys.fence(victim), mine)"),
        ("late-done-of-a-cancelled-fence",),
    ),
    Mutation(
        "register-retire",
        "register: the old alive key is deleted first (CE8)",
        agent(
            "session.session", "Session._retire_old_key", "if entry is not None and entry.lease:", "if False:"
        ),
        ("killed-between-retire-and-register",),
        evidence="expected",
        because="the guard on the key makes it wait for the old lease; it only comes back later",
    ),
    Mutation(
        "register-absent",
        "register: no put over a living alive key, whose old session would go on (CE8)",
        (
            *agent(
                "session.session",
                "Session._retire_old_key",
                "if entry is not None and entry.lease:",
                "if False:",
            ),
            *guard("register", "absent(me)"),
        ),
        ("agent-restarts-within-its-lease",),
        evidence="stuck",
        because="every transaction of a session that is not the key's fails on its guard",
    ),
    Mutation(
        "declare-guards",
        "declare: alive = S, and the node's record is unchanged (each covers the other)",
        guard("declare", SESSION, "unchanged(key, found)"),
        ("declaration-arrives-late",),
    ),
    Mutation(
        "claim-volume",
        "claim: the disk has no record yet, so that two specs that name one are never both claimed",
        _CLAIM_VOLUME,
        ("two-specs-name-one-disk",),
        evidence="stuck",
        because="the look right before a boot refuses one of the two: the disk's own VM, for good",
    ),
    Mutation(
        "claim-volume-and-boot",
        "the same, and the look right before a boot: each keeps a second writer away",
        (*_CLAIM_VOLUME, *_STRANGE_BOOT),
        ("two-specs-name-one-disk-and-all-go",),
    ),
    Mutation(
        "strange-disk",
        "a spec that names the disk of another VM is refused",
        _STRANGE_CLAIM,
        ("two-specs-name-one-disk",),
        evidence="stuck",
        because="the look right before a boot refuses one of the two: the disk's own VM, for good",
    ),
    Mutation(
        "strange-disk-and-boot",
        "the same, and the look right before a boot: each keeps a second writer away",
        (*_STRANGE_CLAIM, *_STRANGE_BOOT),
        ("two-specs-name-one-disk-and-all-go",),
    ),
    Mutation(
        "halt-guards",
        "halt: the claim is mine and unchanged, alive = S (each covers the other)",
        guard("halt", "unchanged(keys.claim(vm), held)", SESSION),
        ("halt-arrives-late",),
    ),
    Mutation(
        "publish-guards",
        "publish: the claim is mine and unchanged, alive = S (each covers the other)",
        guard("publish", "unchanged(keys.claim(vm), held)", SESSION),
        ("status-arrives-late",),
    ),
    Mutation(
        "forget-halt-halt",
        "forgetting a halt: it is the one that was seen",
        guard("forget_halt", "unchanged(keys.halt(vm), found)"),
        ("halt-is-forgotten-late",),
        evidence="expected",
        because="a request of the guest: the VM that switched itself off would run again",
    ),
    Mutation(
        "pass-intent-fence",
        "passing an intent on: it is still mine",
        fence_guard("pass_intent", "unchanged(keys.fence(victim), mine)"),
        ("intent-is-passed-on-late",),
    ),
    Mutation(
        "take-over-intent-fence",
        "taking an intent over: it is unchanged",
        fence_guard("take_over_intent", "unchanged(keys.fence(victim), found)"),
        ("intent-is-taken-over-late",),
    ),
)
