"""What keeps a removal from forgetting a node that somebody still needs to fence, and a guest's data from being
left behind after somebody used virsh, as mutations.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, Patch, agent, plan

_REMOVAL: Final = "core.protocol.node_removal"

TABLE: Final[tuple[Mutation, ...]] = (
    Mutation(
        "removal-sessions-tell",
        "a node that had another session since is not forgotten: its registration takes the mark away",
        (Patch("core.protocol.claims", "register", "Delete(keys.removal(alive.name)),", ""),),
        ("removal-arrives-behind-a-session",),
        evidence="expected",
        because="without its addresses nobody can fence it, and its VM waits until it returns",
    ),
    Mutation(
        "removal-mark",
        "what is forgotten is compared with the mark that sessions take away",
        (Patch(_REMOVAL, "remove_node", "unchanged(keys.removal(node), mark),", ""),),
        ("removal-arrives-behind-a-session",),
        evidence="expected",
        because="without its addresses nobody can fence it, and its VM waits until it returns",
    ),
    Mutation(
        "drift-is-not-ended",
        "a guest that writes elsewhere than on its disk is not ended unless that is given up",
        agent(
            "reconcile.vm_reconciler",
            "VmReconciler.reconcile",
            "if await self._drift.holds(snapshot, action, memory):",
            "if False:",
        ),
        ("snapshot-by-hand-and-restarted",),
        evidence="expected",
        because="the disk itself is whole; what the guest wrote lies in a file that no judge looks at",
    ),
    Mutation(
        "saved-is-kept",
        "a memory that was saved by hand is not thrown away by a boot",
        plan("if saved(snapshot) and not claim.to_release:", "if False:", "_mine"),
        ("saved-by-hand",),
        evidence="expected",
        because="the disk itself is whole; what the guest had in memory is gone",
    ),
    Mutation(
        "removal-fence-stays",
        "a removed node that returns is known by its fence",
        agent(
            "session.etcd_history",
            "EtcdHistory._knows_me",
            "mine = (self._keys.node_facts(self._name), self._keys.fence(self._name))",
            "mine = (self._keys.node_facts(self._name),)",
        ),
        ("removed-node-returns",),
        evidence="expected",
        because="it takes this etcd for a strange one and stays away",
    ),
)
