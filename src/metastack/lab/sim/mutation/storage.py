"""What keeps a fence to the storage that it was made in, and still made, as mutations.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
Rule: where two steps cover each other, the entry takes both away, and says why.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, Patch, agent, guard

STORAGE: Final[tuple[Mutation, ...]] = (
    Mutation(
        "fence-elsewhere",
        "a fence by files counts for no client of Ceph: who has files makes none, and nobody believes one",
        (
            *agent("fencing.fencer", "Fencer._addresses", "if is_client(facts):", "if False:"),
            Patch(
                "core.state.cluster_state",
                "ClusterState.fence_flaw",
                "return discounted(",
                'return "" and discounted(',
            ),
        ),
        ("fence-made-in-another-storage",),
    ),
    Mutation(
        "storage-differs",
        "a node whose storage is not the cluster's is not ready (what it would do then, others do not believe)",
        agent(
            "session.storage_ownership",
            "StorageOwnership.check",
            "if why := differs(agreed.place, here):",
            "if why := '':",
        ),
        ("node-with-another-storage",),
        evidence="expected",
        because="it cannot close a fence of a client of Ceph either: fence-elsewhere",
    ),
    Mutation(
        "storage-owner",
        "a node whose storage bears another cluster's mark is not ready",
        agent(
            "session.storage_ownership",
            "StorageOwnership.check",
            "why := strange(owner, agreed, self._keys.root)",
            "why := ''",
        ),
        ("storage-of-another-cluster",),
        evidence="expected",
        because="the other cluster, whose agents would write to the same disks, is not played",
    ),
    Mutation(
        "takeover-storage",
        "a takeover compares which storage the cluster has: its receipt was judged by that",
        guard("takeover", "unchanged(keys.storage(), storage)"),
        ("storage-adopted-before-a-takeover-lands",),
        evidence="one_claim",
    ),
    Mutation(
        "boot-standing",
        "before a boot the storage says that what a fence reached is still blocked",
        agent(
            "reconcile.domain_actions",
            "DomainActions.boot",
            "await self._fence_check.proven(vm, claim, memory, again=True)",
            "True",
        ),
        ("block-lifted-before-the-boot",),
    ),
    Mutation(
        "release-standing",
        "and before what was taken over is given back: who claims it then looks at no fence",
        agent(
            "reconcile.vm_reconciler",
            "VmReconciler._release",
            "await self._fence_check.proven(snapshot.vm, held.ok, memory, again=False)",
            "True",
        ),
        ("block-lifted-before-a-release",),
    ),
    Mutation(
        "standing-chain",
        "of every node that lost the VM since it was claimed, not only of the last",
        agent("reconcile.claimer", "Claimer.take_over", "taken_before=earlier(old.ok),", "taken_before=(),"),
        ("block-lifted-and-the-taker-dies",),
    ),
)
