"""The transactions' guards as mutations: every compare of every transaction that an agent makes.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
Rule: what two guards cover is one entry, and says so.
"""

from __future__ import annotations

from typing import Final

from .mutation import CHANGES, SESSION, Mutation, Patch, agent, guard

GUARDS: Final[tuple[Mutation, ...]] = (
    # --- the transactions' guards
    Mutation(
        "register-fence",
        "register: fences/me is the one that was looked at",
        guard("register", "unchanged(key, fence)"),
        ("late-registration-of-a-dead-agent",),
    ),
    Mutation(
        "register-retire",
        "register: the old alive key is deleted first (CE8)",
        agent("session", "Session._retire_old_key", "if entry is not None and entry.lease:", "if False:"),
        ("killed-between-retire-and-register",),
    ),
    Mutation(
        "register-fencer-look",
        "register: a node waits while a living fencer is at work on it",
        agent("session", "Session._fence_record", "if fencer is not None:", "if False:"),
        ("returns-while-being-fenced",),
        evidence="expected",
        because="a block that lands on a living node is found and lifted; waiting spares its guests that",
    ),
    Mutation(
        "relet-session",
        "moving to another lease: alive = S",
        guard("relet", SESSION),
        ("ttl-changed-and-lease-lost", "ttl-changed-and-key-deleted"),
    ),
    Mutation(
        "announce-session",
        "ready, announce: alive = S",
        guard("announce", SESSION),
        ("announcement-of-a-dead-session",),
    ),
    Mutation("claim-absent", "claim: nobody has it", guard("claim", "_absent(keys.claim(vm))")),
    Mutation(
        "claim-spec",
        "claim: the spec is the one that was decided on",
        guard("claim", "unchanged(keys.vm_spec(vm), spec)"),
        ("pin-changed-while-a-claim-is-on-its-way",),
        evidence="expected",
        because="what is started is what the spec says then; only a wish would be overtaken",
    ),
    Mutation("claim-session", "claim: alive = S", guard("claim", SESSION), ("claim-of-a-dead-session",)),
    Mutation(
        "claim-group",
        "claim: the tokens of its group rules are those that were looked at",
        guard("claim", "*compared"),
        ("group-claim-arrives-late",),
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
        guard("intent", "_absent(keys.node_alive(victim))"),
        ("intent-arrives-late",),
    ),
    Mutation(
        "intent-fence",
        "intent: the fence record is unchanged",
        guard("intent", "unchanged(keys.fence(victim), found)"),
        ("intent-lands-on-a-fence",),
    ),
    Mutation(
        "done-fence",
        "done: only my own, unchanged intent is closed",
        guard("done", "unchanged(keys.fence(victim), mine)"),
        ("late-done-of-a-cancelled-fence",),
    ),
    Mutation(
        "register-absent",
        "register: my alive key is absent (CE8)",
        guard("register", "_absent(me)"),
    ),
    Mutation("declare-session", "declare: alive = S", guard("declare", SESSION)),
    Mutation(
        "declare-facts", "declare: the node's record is unchanged", guard("declare", "unchanged(key, found)")
    ),
    Mutation(
        "claim-volume",
        "claim: the disk has no record yet: two specs that name one disk are never both claimed",
        guard("claim", "_absent(keys.volume(volume.project, volume.uuid))"),
    ),
    Mutation(
        "takeover-spec",
        "takeover: the spec is the one that was decided on",
        guard("takeover", "unchanged(keys.vm_spec(vm), spec)"),
    ),
    Mutation(
        "takeover-fence",
        "takeover: the fence record is the one that was read",
        guard("takeover", "unchanged(keys.fence(old.ok.node), fence)"),
    ),
    Mutation("halt-claim", "halt: the claim is unchanged", guard("halt", "unchanged(keys.claim(vm), held)")),
    Mutation("halt-session", "halt: alive = S", guard("halt", SESSION)),
    Mutation(
        "halt-spec",
        "halt: a start that came meanwhile wins",
        guard("halt", "unchanged(keys.vm_spec(vm), spec)"),
    ),
    Mutation(
        "publish-claim", "publish: the claim is unchanged", guard("publish", "unchanged(keys.claim(vm), held)")
    ),
    Mutation("publish-session", "publish: alive = S", guard("publish", SESSION)),
    Mutation("release-session", "release: alive = S", guard("release", SESSION)),
    Mutation(
        "forget-halt-halt",
        "forgetting a halt: it is the one that was seen",
        guard("forget_halt", "unchanged(keys.halt(vm), found)"),
    ),
    Mutation(
        "forget-halt-spec",
        "forgetting a halt: the spec is the one that voids it",
        guard("forget_halt", "unchanged(keys.vm_spec(vm), spec)"),
    ),
    Mutation("forget-halt-session", "forgetting a halt: alive = S", guard("forget_halt", SESSION)),
    Mutation(
        "forget-volume-record",
        "forgetting a disk: its record is the one that was seen",
        guard("forget_volume", "unchanged(key, found)"),
    ),
    Mutation("forget-volume-session", "forgetting a disk: alive = S", guard("forget_volume", SESSION)),
    Mutation("intent-session", "intent: alive = S", guard("intent", SESSION)),
    Mutation(
        "pass-intent-fence",
        "passing an intent on: it is still mine",
        guard("pass_intent", "unchanged(keys.fence(victim), mine)"),
    ),
    Mutation("pass-intent-session", "passing an intent on: alive = S", guard("pass_intent", SESSION)),
    Mutation(
        "take-over-intent-fence",
        "taking an intent over: it is unchanged",
        guard("take_over_intent", "unchanged(keys.fence(victim), found)"),
    ),
    Mutation(
        "take-over-intent-session", "taking an intent over: alive = S", guard("take_over_intent", SESSION)
    ),
    Mutation(
        "take-over-intent-fencer",
        "taking an intent over: its fencer is not alive",
        (Patch(CHANGES, "take_over_intent", "if found.ok.intent_by != me.node:", "if False:"),),
    ),
    Mutation(
        "done-through",
        "done: a fence's reach never shrinks",
        (
            Patch(
                CHANGES,
                "done",
                "through=max(mine.ok.through, resolved_intent(mine.ok, mine.mod))",
                "through=resolved_intent(mine.ok, mine.mod)",
            ),
        ),
    ),
)
