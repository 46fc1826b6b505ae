"""Mutations of actions of an agent: fencing, acting on guests and records, sweeping.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
Rule: where two steps cover each other, the entry takes both away, and says why.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, Patch, agent, plan

ACTIONS: Final[tuple[Mutation, ...]] = (
    # --- fencing
    Mutation(
        "done-after-block",
        "done is written only after the storage confirmed the block",
        agent(
            "fencing.fencer",
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
                "storage.twin",
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
                "agent.fencing.fencer",
                "Fencer._fence",
                "entry = await node.store.get(node.keys.node_facts(victim))",
                "found = node.world.facts(victim)",
            ),
            Patch(
                "agent.fencing.fencer",
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
        "settle",
        "after an unknown outcome nothing is decided before it is settled",
        agent(
            "reconcile.vm_reconciler",
            "VmReconciler.reconcile",
            "memory.claim_in_flight = True",
            "memory.claim_in_flight = False",
        ),
        ("release-arrives-late",),
    ),
    Mutation(
        "stray",
        "a start without an answer is waited for before the release",
        agent(
            "reconcile.vm_reconciler",
            "VmReconciler._release",
            "if memory.order_in_flight or memory.disk_in_flight:",
            "if False:",
        ),
        ("start-unanswered-then-moved",),
    ),
    Mutation(
        "making",
        "a disk whose making got no answer is waited for before the release",
        agent("reconcile.vm_disk", "VmDisk.prepare", "memory.disk_in_flight = True"),
        ("disk-appears-when-its-vm-is-gone",),
        evidence="stuck",
        because="not a writer: a disk that nobody would ever remove",
    ),
    Mutation(
        "went-back",
        "an etcd that went back is not acted on",
        agent(
            "cache.informer", "Informer.look", "if not self.etcd_history.judge(snapshot, floor):", "if False:"
        ),
        ("restored-and-noticed", "etcd-went-back"),
    ),
    Mutation(
        "recognised",
        "an agent that is a stranger to the etcd that it reached kills nothing",
        agent(
            "agent",
            "Agent._one",
            "self.node.informer.etcd_untrusted or not self.node.session.etcd_recognised",
            "False",
        ),
        ("agent-meets-a-strange-etcd",),
    ),
    Mutation(
        "undefine",
        "gone means undefined (the adapter's; here the twin's)",
        (Patch("hypervisor.twin.hypervisor", "MemoryHypervisor.kill", "self._forget(uuid)", "pass"),),
        evidence="stuck",
        because="a defined domain does not run; nothing can be started over it",
    ),
    Mutation(
        "epoch-in-domain",
        "a domain carries its claim's epoch",
        (
            Patch(
                "agent.reconcile.domain_actions",
                "DomainActions.boot",
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
                "agent.reconcile.claimer",
                "Claimer.take_over",
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
                "lab.sim.engine.spec_words",
                "spec_of",
                'volume_uuid=f"{number:08d}-{life:04d}-',
                'volume_uuid=f"{number:08d}-0001-',
            ),
        ),
        ("deleted-and-made-anew", "deleted-and-made-anew-removal-late"),
        evidence="stuck",
        because="a disk with the name of the old one stays open or in use; etcd is asked before a removal",
    ),
    # --- sweeping: the world's picture first, then etcd itself
    Mutation(
        "orphan-spec",
        "a disk that a spec names is no orphan",
        (
            Patch("agent.upkeep.sweeper", "orphaned", "if spec is not None and", "if False and"),
            Patch(
                "agent.upkeep.sweeper",
                "Sweeper._nobody_refers_to",
                "spec = await node.store.get(node.keys.vm_spec(vm))",
                "spec = None",
            ),
        ),
        ("guest-off-then-node-dies",),
    ),
    Mutation(
        "orphan-claim",
        "a disk that a claim names is no orphan, nor one whose UUID any claim contains",
        (
            Patch("agent.upkeep.sweeper", "orphaned", "claim is not None and", "False and"),
            Patch(
                "agent.upkeep.sweeper",
                "Sweeper._nobody_refers_to",
                "claim = await node.store.get(node.keys.claim(vm))",
                "claim = None",
            ),
            *agent("upkeep.sweeper", "Sweeper.disk", "if await self._remover.used(uuid):", "if False:"),
        ),
        ("deleted-while-its-disk-is-made",),
        evidence="stuck",
        because="a disk that is open is not removed; one that is not is left over",
    ),
    Mutation(
        "orphan-unreadable",
        "the disk of a VM whose spec cannot be read is no orphan",
        (
            Patch("agent.upkeep.sweeper", "orphaned", "spec.record is None or", "spec.record is not None and"),
            Patch(
                "agent.upkeep.sweeper",
                "Sweeper._nobody_refers_to",
                "(spec is not None and found[0] is None) or ",
                "",
            ),
        ),
        ("unreadable-and-switched-off",),
    ),
    Mutation(
        "drain",
        "no boot of an older session: workers are waited for, and look at their session right before a start",
        (
            *agent("session.session", "Session._join", "await self._drained()"),
            Patch(
                "agent.reconcile.domain_actions",
                "DomainActions.boot",
                "if node.session.number != claim.session:",
                "if False:",
            ),
        ),
        ("answer-comes-after-the-fence",),
    ),
    Mutation(
        "memory-each-step",
        "what is noted after a release is not noted in the memory that the release forgot",
        (
            *agent("reconcile.vm_reconciler", "VmReconciler.reconcile", "memory = self._node.memory.of(vm)"),
            *agent(
                "reconcile.vm_reconciler",
                "VmReconciler.reconcile",
                "for _ in range(MOST_STEPS):",
                "memory = self._node.memory.of(vm)\n        for _ in range(MOST_STEPS):",
            ),
        ),
        ("made-anew-and-its-start-unanswered",),
        one_edit=True,
    ),
    Mutation(
        "own-write",
        "a view is never older than my own last write: a commit waits until it is seen, or etcd is asked",
        (
            *agent(
                "context",
                "AgentContext.commit",
                "await self.informer.reached(outcome.revision)\n            finally:",
                "pass\n            finally:",
            ),
            Patch(
                "agent.reconcile.domain_actions",
                "DomainActions.boot",
                "if entry is None or entry.mod_revision != held.mod:",
                "if False:",
            ),
        ),
        ("started-while-its-node-hears-late",),
    ),
    Mutation(
        "own-write-unheard",
        "a view that is past this node's own change and does not have it is listed again",
        agent(
            "context",
            "AgentContext.commit",
            "if key := self.world.lacks(change, outcome.revision):",
            'if key := "":',
        ),
        ("watch-loses-its-own-claims",),
    ),
    Mutation(
        "hole-in-the-view",
        "a view that never heard of a spec that a claim compared is no view: it is listed again; nor has it"
        " heard of the rule version of that spec's rule",
        (
            Patch("core.state.cluster_state", "ClusterState._apply_one", "self.missed_key = event.key", "pass"),
            Patch("core.protocol.claims", "takeover", "*compare_rule_versions(rule_versions),", ""),
        ),
        ("watch-loses-a-wish",),
    ),
    Mutation(
        "cleared-away-in-doubt",
        "what a guest left is cleared away only when no start of it can land any more",
        agent(
            "reconcile.domain_actions",
            "DomainActions.kill",
            "if action.over and memory.order_in_flight:",
            "if False:",
        ),
        ("start-lands-as-its-remains-are-cleared",),
        evidence="expected",
        because="the guest that has begun is ended and booted again: no second writer, but no kindness either",
    ),
    Mutation(
        "claims-counted-anew",
        "what a fence has to cover is counted again when a claim changes",
        (Patch("core.state.cluster_state", "ClusterState._apply_one", "self._tally.forget()", "pass"),),
        ("test:unit/core/test_claim_counts.py",),
        evidence="test",
        because="the count of a first loss would stay: only a second one would lose a VM by it",
    ),
    Mutation(
        "status-of-another-relet",
        "what moves to another lease is what this session said, not what an owner before it did",
        agent("session.session", "Session._move_to_lease", "and status.record.session == self.number", ""),
        ("takeover-unanswered-and-unheard",),
    ),
    Mutation(
        "status-of-another-adopted",
        "what is settled says nothing that an owner before this session said",
        agent("reconcile.vm_reconciler", "VmReconciler._settle", "status = None", "pass"),
        ("takeover-unanswered-and-unheard",),
    ),
    Mutation(
        "own-write-later",
        "and when that wait ended without it, it goes on before a key's turn, or etcd is asked",
        (
            *agent("agent", "Agent._one", "await self.node.caught_up()"),
            Patch(
                "agent.reconcile.domain_actions",
                "DomainActions.boot",
                "if entry is None or entry.mod_revision != held.mod:",
                "if False:",
            ),
        ),
        ("release-is-never-heard-of",),
    ),
    Mutation(
        "boot-asks-etcd",
        "etcd is asked for the claim right before a boot, and a view that lacks my own release is listed again",
        (
            Patch(
                "agent.reconcile.domain_actions",
                "DomainActions.boot",
                "if entry is None or entry.mod_revision != held.mod:",
                "if False:",
            ),
            *agent(
                "context",
                "AgentContext.commit",
                "if key := self.world.lacks(change, outcome.revision):",
                'if key := "":',
            ),
        ),
        ("release-is-not-heard-of",),
    ),
    Mutation(
        "blocked-node-leaves",
        "a ready node that finds itself blocked takes the whole way back (CE1)",
        agent(
            "session.session",
            "Session.lose",
            "self._why = self._why or why",
            'if "blocks this node" in why:\n            return\n        self._why = self._why or why',
        ),
        ("late-fencer-blocks-a-living-node",),
        evidence="stuck",
        because="a node that is shut out writes nothing",
    ),
    Mutation(
        "takeover-fenced",
        "takeover: only of a session that a done fence reached",
        plan(" or fence.record.through < claim.session", "", "_foreign"),
        ("test:unit/core/test_plan.py",),
        evidence="test",
        because="a VM that is answered for has no line of takers, and the transaction refuses (ValueError)",
    ),
    Mutation(
        "registered-fence",
        "what a fence reached is read for the registration, not from the informer, which may have lost it",
        agent(
            "session.session",
            "Session._join",
            "self.fenced_through = max(self.fenced_through, fence.ok.through)",
        ),
        ("fence-is-not-heard-of",),
    ),
    Mutation(
        "kill-stray",
        "a kill or shutdown without an answer is waited for before the guest is started again, and the adapter"
        " (here the simulation's; one contract test for both) starts nothing beside such an order",
        (
            *agent("reconcile.domain_actions", "DomainActions.boot", "if memory.order_in_flight:", "if False:"),
            Patch(
                "hypervisor.twin.daemon",
                "MemoryDaemon._refuse_beside",
                'if call.what == "boot" or (call.what != "kill" and other.given_up):',
                'if call.what not in ("boot", "kill") and other.given_up:',
            ),
        ),
        ("kill-unanswered-then-started",),
    ),
    Mutation(
        "no-address",
        "a node of which no storage address is known cannot be fenced: no done",
        agent("fencing.fencer", "Fencer._addresses", "if not addresses:", "if False:"),
        ("fenced-node-has-no-address",),
    ),
    Mutation(
        "one-agent",
        "one agent per host: a lock on its disk",
        (
            Patch(
                "agent.session.state_files",
                "StateFiles.lock",
                "fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)",
                "pass",
            ),
        ),
        ("test:unit/agent/test_one_agent.py",),
        evidence="test",
        because="a second agent of a host is a second process; its lock is the kernel's",
    ),
    Mutation(
        "clean-exit",
        "the mark of a clean exit is taken away before anything is done, so that the next exit is unclean",
        (
            Patch(
                "agent.session.state_files", "StateFiles.take_clean_exit", 'self._remove("clean-exit")', "pass"
            ),
        ),
        ("kill-left-after-a-clean-exit",),
    ),
)
