"""The safety steps of the protocol, each with how to take it away: text of the source, replaced at load time.

Owns: the list. Refuses: switches: the shipped code has none; a patch exists only in a subprocess's memory.
Rule: a patch names a function and a text that stands in it exactly once, so that a step which moves or vanishes
makes its entry stale, loudly. Where two steps cover each other, the entry takes both away, and says why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Patch:
    """One replacement: ``old`` stands exactly once in that function (``Class.method``) of that module."""

    module: str
    function: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutation:
    """One safety step taken away."""

    name: str
    step: str
    """What the step is, for people."""
    patches: tuple[Patch, ...]
    seen_by: tuple[str, ...] = ()
    """Scenarios that are about it: tried first."""
    harmless: bool = False
    """A control: without it everything must stay safe."""
    one_edit: bool = False
    """Its patches are one change of the source, not steps that cover each other."""
    unproven: str = ""
    """Why nobody notices it yet. It fails the check all the same, and is named in every report."""


_CHANGES: Final = "core.changes"


def _guard(change: str, *guards: str) -> tuple[Patch, ...]:
    return tuple(Patch(_CHANGES, change, guard, "*()") for guard in guards)


def _plan(old: str, new: str, function: str = "plan") -> tuple[Patch, ...]:
    return (Patch("core.plan", function, old, new),)


def _agent(module: str, function: str, old: str, new: str = "pass") -> tuple[Patch, ...]:
    return (Patch(f"agent.{module}", function, old, new),)


_SESSION: Final = "in_session(keys, me)"
_DISBELIEF: Final = "not mirror.listed.is_set() or mirror.went_back or not self.node.session.recognised"

MUTATIONS: Final[tuple[Mutation, ...]] = (
    # --- the transactions' guards
    Mutation(
        "register-fence",
        "register: fences/me is the one that was looked at",
        _guard("register", "unchanged(key, fence)"),
        ("late-registration-of-a-dead-agent",),
    ),
    Mutation(
        "register-retire",
        "register: the old alive key is deleted first (CE8)",
        _agent("session", "Session._retire_old_key", "if entry is not None and entry.lease:", "if False:"),
        ("killed-between-retire-and-register",),
    ),
    Mutation(
        "register-fencer-look",
        "register: a node waits while a living fencer is at work on it",
        _agent("session", "Session._fence_record", "if fencer is not None:", "if False:"),
        ("returns-while-being-fenced",),
    ),
    Mutation(
        "register-fencer-guard",
        "register: only an intent whose fencer is dead is cancelled",
        (Patch(_CHANGES, "register", "guards.append(_absent(keys.node_alive(fence.ok.intent_by)))", "pass"),),
        unproven="the look before it covers it, but for a fencer that returns between the two",
    ),
    Mutation(
        "relet-session",
        "moving to another lease: alive = S",
        _guard("relet", _SESSION),
        ("ttl-changed-and-lease-lost", "ttl-changed-and-key-deleted"),
    ),
    Mutation(
        "announce-session",
        "ready, announce: alive = S",
        _guard("announce", _SESSION),
        ("announcement-of-a-dead-session",),
    ),
    Mutation("claim-absent", "claim: nobody has it", _guard("claim", "_absent(keys.claim(vm))")),
    Mutation(
        "claim-spec",
        "claim: the spec is the one that was decided on",
        _guard("claim", "unchanged(keys.vm_spec(vm), spec)"),
        ("pin-changed-while-a-claim-is-on-its-way",),
    ),
    Mutation("claim-session", "claim: alive = S", _guard("claim", _SESSION), ("claim-of-a-dead-session",)),
    Mutation(
        "takeover-claim",
        "takeover: the claim is unchanged",
        _guard("takeover", "unchanged(keys.claim(vm), old)"),
        ("takeover-arrives-late",),
    ),
    Mutation(
        "takeover-session",
        "takeover: alive = S",
        _guard("takeover", _SESSION),
        ("takeover-of-a-dead-session",),
    ),
    Mutation(
        "takeover-fenced",
        "takeover: only of a session that a done fence reached",
        _plan(" or fence.record.through < claim.session", "", "_foreign"),
        ("test:unit/core/test_plan.py",),
    ),
    Mutation("adopt-claim", "adopt: the claim is unchanged", _guard("adopt", "unchanged(keys.claim(vm), old)")),
    Mutation("adopt-session", "adopt: alive = S", _guard("adopt", _SESSION), ("adoption-of-a-dead-session",)),
    Mutation(
        "halt-guards",
        "halt: the claim is mine and unchanged, alive = S",
        _guard("halt", "unchanged(keys.claim(vm), held)", _SESSION),
        ("halt-arrives-late",),
    ),
    Mutation(
        "publish-guards",
        "publish: the claim is mine and unchanged, alive = S",
        _guard("publish", "unchanged(keys.claim(vm), held)", _SESSION),
        ("status-arrives-late",),
    ),
    Mutation(
        "release-claim",
        "release: the claim is unchanged",
        _guard("release", "unchanged(keys.claim(vm), held)"),
        ("release-arrives-late",),
    ),
    Mutation(
        "intent-absent",
        "intent: the victim's alive key is absent in that transaction",
        _guard("intent", "_absent(keys.node_alive(victim))"),
        ("intent-arrives-late",),
    ),
    Mutation(
        "intent-fence",
        "intent: the fence record is unchanged",
        _guard("intent", "unchanged(keys.fence(victim), found)"),
        ("intent-lands-on-a-fence",),
    ),
    Mutation(
        "done-fence",
        "done: only my own, unchanged intent is closed",
        _guard("done", "unchanged(keys.fence(victim), mine)"),
        ("late-done-of-a-cancelled-fence",),
    ),
    # --- sessions
    Mutation(
        "quiesce",
        "before registering: no thread of an older session is at work",
        _agent("session", "Session._join", "await self._quiesce()"),
        ("thread-lands-in-the-next-session",),
    ),
    Mutation(
        "drain",
        "before registering: no worker of an older session is in the middle of anything",
        _agent("session", "Session._join", "await self._drained()"),
        unproven="quiesce and the looks before a boot seem to cover it",
    ),
    Mutation(
        "barrier",
        "after an unclean exit libvirtd is restarted before anything is looked at (CE3)",
        _agent("session", "Session._join", "await self._hypervisor.barrier()"),
        ("kill-left-by-a-dead-agent",),
    ),
    Mutation(
        "kill-fenced",
        "before registering: what is fenced is killed (and the unblock's own look for guests)",
        (
            *_agent("session", "Session._join", "await self._kill_fenced(fence)"),
            Patch(
                "agent.session",
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
            *_agent(
                "session",
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
        _agent("session", "Session._unblock", "await self._storage.unfence(blocked)"),
        ("power-cut-and-return",),
    ),
    Mutation(
        "unblock-mark",
        "an unblock under way is marked on the disk before it is sent (CE7)",
        _agent("session", "Session._unblock", "self._marks.begin_unblock()"),
        ("unblock-pending-when-its-agent-dies",),
    ),
    Mutation(
        "unblock-wait",
        "an unblock that a dead agent sent is waited for (CE7)",
        _agent("session", "Session._unblock", "await asyncio.sleep(PENDING_UNBLOCK_S)"),
        ("unblock-pending-when-its-agent-dies",),
    ),
    Mutation(
        "blocked-node-leaves",
        "a ready node that finds itself blocked takes the whole way back; it lifts nothing on the spot (CE1)",
        (
            *_agent(
                "session",
                "Session.lose",
                "self._why = self._why or why",
                'if "shuts this node out" in why:\n            return\n        self._why = self._why or why',
            ),
        ),
        ("late-fencer-blocks-a-living-node",),
    ),
    Mutation(
        "own-key-gone",
        "a session whose alive key is gone is over, whatever renewals say",
        _agent("session", "Session.check", 'self.lose("my alive key is gone")'),
        ("lease-revoked-and-renewal-lies", "alive-key-deleted-by-hand"),
    ),
    # --- the rulebook
    Mutation(
        "plan-ready",
        "nothing is claimed or booted before ready (CE1)",
        _plan("if not view.ready:", "if False:"),
        ("test:unit/core/test_plan.py",),
    ),
    Mutation(
        "plan-covered-fenced",
        "a guest of a fenced session is killed",
        _plan(" and claim.session > view.fenced_through", "", "_covered"),
        ("test:unit/core/test_plan.py",),
    ),
    Mutation(
        "plan-covered-node",
        "a guest whose claim is another node's is killed",
        _plan("claim.node == view.node and ", "", "_covered"),
        ("test:unit/core/test_plan.py",),
    ),
    Mutation(
        "plan-epoch",
        "a guest of a stale epoch is killed",
        _plan("domain.epoch != view.claim.ok.epoch", "False"),
        ("test:unit/core/test_plan.py",),
    ),
    Mutation(
        "plan-unmanaged",
        "a domain that is not ours is left alone",
        _plan("if not domain.managed:", "if False:"),
        ("test:unit/core/test_plan.py",),
    ),
    Mutation(
        "plan-unreadable",
        "a VM whose claim cannot be read is left alone",
        _plan("if view.claim is not None and view.claim.record is None:", "if False:"),
    ),
    Mutation(
        "plan-adopt",
        "a claim of an older session is adopted before anything else",
        _plan("if view.claim.ok.session != view.session:", "if False:"),
    ),
    Mutation(
        "plan-kill-before-release",
        "a claim is released only without a domain",
        _plan(
            'Kill(domain.uuid, "deleted") if domain is not None else Release(drop_halt=spec is None)',
            "Release(drop_halt=spec is None)",
            "_mine",
        ),
    ),
    Mutation(
        "plan-halt",
        "that a guest switched itself off is made durable before the release",
        _plan("return RecordHalt()", "return Release()", "_mine"),
        ("guest-off-then-node-dies",),
    ),
    Mutation(
        "fence-alive",
        "a living node is not fenced (the rulebook's half; the guard is intent-absent)",
        _plan("if view.victim_alive:", "if False:", "plan_fence"),
        ("test:unit/core/test_plan.py",),
    ),
    Mutation(
        "fence-brake",
        "nothing is fenced while the brake holds",
        _plan("if view.braked:", "if False:", "plan_fence"),
        ("two-of-three-lost",),
    ),
    Mutation(
        "brake-counts",
        "the brake engages when too many vanish together",
        _agent("fencer", "Fencer._brake", "most * 100 > config.brake_percent * len(joined)", "False"),
        ("two-of-three-lost",),
    ),
    Mutation(
        "brake-old-receipt",
        "an old fence receipt does not hide that a node vanished just now",
        _agent("fencer", "Fencer._brake", "if now_s - at_s > config.brake_window_s", "if True"),
        ("regression:brake-old-receipt",),
    ),
    # --- fencing
    Mutation(
        "done-after-block",
        "done is written only after the storage confirmed the block",
        _agent(
            "fencer",
            "Fencer._fence",
            "await self._fail(victim, mine, error)\n            return",
            'receipt = FenceReceipt(at="", by=node.name, method="unconfirmed")',
        ),
        ("storage-refuses-the-block",),
    ),
    Mutation(
        "storage-barrier",
        "the storage answers a fence when the block holds, not before (the adapter's barrier; here the twin's)",
        (
            Patch(
                "storage.memory",
                "MemoryStorage.fence",
                "pool.blocked.update(addresses)",
                "asyncio.get_running_loop().call_later(4.0, pool.blocked.update, addresses)",
            ),
        ),
    ),
    Mutation(
        "addresses-after-intent",
        "the victim's addresses are read from etcd itself, after the intent committed",
        (
            Patch(
                "agent.fencer",
                "Fencer._fence",
                "entry = await node.store.get(node.keys.node_facts(victim))",
                "found = node.world.facts(victim)",
            ),
            Patch(
                "agent.fencer",
                "Fencer._fence",
                "facts = seen(NodeFacts, entry).record if entry is not None else None",
                "facts = found.record if found is not None else None",
            ),
        ),
        ("address-declared-behind-a-fencer",),
        one_edit=True,
    ),
    # --- acting
    Mutation(
        "boot-asks-etcd",
        "etcd itself is asked for the claim right before a boot",
        (
            Patch(
                "agent.guests",
                "Guests.boot",
                "if entry is None or entry.mod_revision != held.mod:",
                "if False:",
            ),
        ),
        ("test:unit/agent/test_attack_protocol.py",),
    ),
    Mutation(
        "boot-session",
        "the session is looked at again right before a boot, and the claim when its turn comes",
        (
            Patch(
                "agent.guests",
                "Guests.boot",
                "if now is None or now.mod != held.mod or not node.session.ready:",
                "if False:",
            ),
            Patch("agent.guests", "Guests.boot", "if node.session.token != claim.session:", "if False:"),
        ),
        ("frozen-before-boot-too-long",),
        unproven="draining, quiesce and the look at etcd seem to cover it",
    ),
    Mutation(
        "settle",
        "after an unknown outcome nothing is decided before it is settled",
        _agent("act", "Reconciler.reconcile", "memory.unsettled = True", "memory.unsettled = False"),
        ("release-arrives-late",),
    ),
    Mutation(
        "stray",
        "a start without an answer is waited for before the release",
        _agent("act", "Reconciler._release", "if memory.stray:", "if False:"),
        ("start-unanswered-then-moved",),
    ),
    Mutation(
        "memory-each-step",
        "what is noted after a release is not noted in the memory that the release forgot",
        (
            *_agent("act", "Reconciler.reconcile", "memory = self._node.memory.of(vm)"),
            *_agent(
                "act",
                "Reconciler.reconcile",
                "for _ in range(MOST_STEPS):",
                "memory = self._node.memory.of(vm)\n        for _ in range(MOST_STEPS):",
            ),
        ),
        ("made-anew-and-its-start-unanswered",),
        one_edit=True,
    ),
    Mutation(
        "own-write",
        "a view is never older than my own last write (after a commit, and before a key's turn)",
        (
            *_agent("node", "Node.commit", "await self.mirror.reached(outcome.revision)"),
            *_agent("agent", "Agent._one", "await self.node.caught_up()"),
        ),
        unproven="the look at etcd before a boot and before a kill seems to cover it",
    ),
    Mutation(
        "went-back",
        "an etcd that went back is not acted on",
        _agent("mirror", "Mirror.look", "if not self.past.judge(snapshot, floor):", "if False:"),
        ("restored-and-noticed", "etcd-went-back"),
    ),
    Mutation(
        "recognised",
        "an agent that is a stranger to the etcd that it reached kills nothing",
        _agent("agent", "Agent._one", _DISBELIEF, "False"),
        ("restored-and-noticed", "test:unit/agent/test_attack_protocol.py"),
    ),
    Mutation(
        "listed",
        "an agent that has not listed etcd since it started kills nothing",
        _agent("agent", "Agent._one", "not mirror.listed.is_set() or ", ""),
        ("agent-starts-while-etcd-is-away",),
        unproven="being recognised needs a list, and no key is queued before one",
    ),
    Mutation(
        "undefine",
        "gone means undefined (the adapter's; here the twin's)",
        (Patch("hypervisor.memory", "MemoryHypervisor.kill", "self._forget(uuid)", "pass"),),
    ),
    Mutation(
        "epoch-in-domain",
        "a domain carries its claim's epoch",
        (
            Patch(
                "agent.guests",
                "Guests.boot",
                "epoch=claim.epoch,\n                        run=",
                "epoch=1,\n                        run=",
            ),
        ),
    ),
    Mutation(
        "epoch-is-the-put",
        "an epoch is the revision of the very put (CE4)",
        (
            Patch(
                "agent.taking",
                "Taking.take_over",
                "claim_id=node.clock.ident(),",
                "claim_id=node.clock.ident(),\n                epoch=old.ok.epoch,",
            ),
        ),
    ),
    Mutation(
        "disks-by-uuid",
        "disks are named by their UUID, never by the VM's name (CE6)",
        (
            Patch(
                "sim.operator",
                "Operator.want",
                'volume_uuid=f"{number:08d}-{life:04d}-',
                'volume_uuid=f"{number:08d}-0001-',
            ),
        ),
        ("deleted-and-made-anew", "deleted-and-made-anew-removal-late"),
    ),
    # --- sweeping: the world's picture first, then etcd itself
    Mutation(
        "orphan-spec",
        "a disk that a spec names is no orphan",
        (
            Patch("agent.sweeper", "orphaned", "if spec is not None and", "if False and"),
            Patch(
                "agent.sweeper",
                "Sweeper._nobody_refers_to",
                "spec = await node.store.get(node.keys.vm_spec(vm))",
                "spec = None",
            ),
        ),
        ("guest-off-then-node-dies",),
    ),
    Mutation(
        "orphan-claim",
        "a disk that a claim names is no orphan",
        (
            Patch("agent.sweeper", "orphaned", "claim is not None and", "False and"),
            Patch(
                "agent.sweeper",
                "Sweeper._nobody_refers_to",
                "claim = await node.store.get(node.keys.claim(vm))",
                "claim = None",
            ),
        ),
        ("deleted-while-its-disk-is-made",),
    ),
    Mutation(
        "orphan-unreadable",
        "the disk of a VM whose spec cannot be read is no orphan",
        (
            Patch("agent.sweeper", "orphaned", "spec.record is None or", "spec.record is not None and"),
            Patch(
                "agent.sweeper", "Sweeper._nobody_refers_to", "(spec is not None and found[0] is None) or ", ""
            ),
            Patch("agent.sweeper", "orphaned", "claim.record is None or", "claim.record is not None and"),
        ),
        ("unreadable-and-switched-off",),
    ),
    # --- controls
    Mutation("control-nothing", "no step is taken away", (), harmless=True),
    Mutation(
        "control-grace",
        "the grace is comfort, not safety",
        _plan("view.absent_for_s < view.grace_s", "False", "plan_fence"),
        harmless=True,
    ),
    Mutation(
        "control-intent-through",
        "an intent that is taken over keeps its reach: needless, since a living node has no open intent",
        (
            Patch(
                _CHANGES,
                "take_over_intent",
                "intent_through=resolved_intent(found.ok, found.mod)",
                "intent_through=0",
            ),
        ),
        harmless=True,
    ),
)
