"""What protects from surprises of a machine, as mutations: its libvirtd, its domains, its address, its disks.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
Rule: where two steps cover each other, the entry takes both away, and says why.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, agent, plan

HOSTS: Final[tuple[Mutation, ...]] = (
    # --- a libvirtd that hung still has what was sent to it
    Mutation(
        "astray-barrier",
        "a session after calls that went astray begins with the barrier",
        agent("session.session", "Session._join", " or await self._hypervisor.astray()", ""),
        ("test:unit/agent/test_astray.py",),
        evidence="test",
        because="every session finds the call astray and ends again: a judge sees that after thousands",
    ),
    Mutation(
        "astray-exit",
        "an agent that stops with a call astray leaves no mark of a clean exit",
        agent(
            "session.session", "Session.leave", "if quiet and not await self._hypervisor.astray():", "if quiet:"
        ),
        ("kill-left-in-a-hung-libvirtd-and-stopped",),
    ),
    Mutation(
        "leave-if-astray",
        "a session with a call astray ends",
        (
            *agent("session.session", "Session.leave_if_astray", "if astray and self.number:", "if False:"),
            *agent("session.session", "Session.leave_if_astray", "return astray", "return False"),
        ),
        ("kill-left-in-a-hung-libvirtd",),
        one_edit=True,
    ),
    # --- domains that do not say what they are
    Mutation(
        "plan-damaged",
        "a VM with a domain that nobody can read is neither released nor started",
        plan("if snapshot.damaged:", "if False:", "_mine"),
        ("damaged-metadata-is-left-alone",),
    ),
    Mutation(
        "damaged-killed",
        "what nobody can read is killed before the way back: when shut out, and when claimed elsewhere",
        (
            *agent("session.stale_domains", "kill_lost", "if not (shut_out or _lost(", "if not (_lost("),
            *agent(
                "session.stale_domains",
                "_lost",
                "any(claim.node != me or claim.session <= through for claim in claims)",
                "False",
            ),
        ),
        ("damaged-metadata-and-fenced",),
        evidence="stuck",
        because="a node with such a domain does not lift its block: it stays out for good",
    ),
    Mutation(
        "damaged-unblock",
        "and its block is not lifted while it is there (that look alone is no way back: damaged-killed)",
        (
            *agent(
                "session.stale_domains",
                "kill_lost",
                "if not (shut_out or _lost(world, me, through, domain)):",
                "if True:",
            ),
            *agent("session.session", "Session._unblock", "await refuse_damaged(self._hypervisor)"),
        ),
        ("damaged-metadata-and-fenced",),
        one_edit=True,
    ),
    # --- addresses
    Mutation(
        "boot-address",
        "a guest is booted only where the storage sees this node under a declared address",
        agent("reconcile.domain_actions", "DomainActions.boot", "await node.session.prove_address()"),
        ("storage-address-changes-while-running",),
    ),
    Mutation(
        "ready-address",
        "a node is ready, and boots, only where the storage sees it under an address that is declared",
        (
            *agent("session.storage_clients", "StorageClients.settle", "await self.refuse_strange()"),
            *agent("reconcile.domain_actions", "DomainActions.boot", "await node.session.prove_address()"),
        ),
        ("settings-say-another-address",),
    ),
    Mutation(
        "shared-address",
        "an address that another node has is not declared: looked before and after",
        (
            *agent(
                "session.storage_clients",
                "StorageClients.prove",
                "                return\n            await self.refuse_shared(self.seen)",
                "                return",
            ),
            *agent(
                "session.storage_clients",
                "StorageClients.prove",
                "known.storage_clients)\n            await self.refuse_shared(self.seen)",
                "known.storage_clients)",
            ),
        ),
        ("storage-address-of-another-node",),
        evidence="expected",
        because="a fence of either takes both out, and neither lifts its block while both declare it",
    ),
    # --- disks
    Mutation(
        "strange-disk-boot",
        "right before a boot: the disk was nobody else's before",
        agent(
            "reconcile.domain_actions",
            "DomainActions.boot",
            "foreign_owner := node.disks.foreign_owner(spec)",
            "foreign_owner := None",
        ),
        ("two-projects-name-one-disk",),
    ),
    Mutation(
        "copied-spec",
        "a disk belongs to the VM whose name its record has, not to whoever has that VM's UUID",
        agent(
            "reconcile.volume_index",
            "belongs",
            "return (volume.project, volume.vm, volume.vm_uuid) ==",
            "return volume.vm_uuid == spec.uuid or () ==",
        ),
        ("spec-copied-under-another-name",),
    ),
    Mutation(
        "copied-domain",
        "another VM's domain of the same UUID is not this VM's",
        agent(
            "reconcile.vm_reconciler",
            "VmReconciler._domains",
            "and (domain.project, domain.name) == (vm.project, vm.name)",
            "",
        ),
        ("spec-copied-under-another-name",),
        evidence="destroyed",
    ),
    Mutation(
        "copied-disk",
        "of a disk that two projects' records name only the younger record is removed",
        (
            *agent("upkeep.sweeper", "Sweeper.disk", "not in (None, (project, uuid))", "is None"),
            *agent("upkeep.sweeper", "Sweeper.disk", "if await self._remover.used(uuid):", "if False:"),
        ),
        ("spec-copied-under-another-name",),
        evidence="destroyed",
    ),
)
