"""Mutations: a host that fails, and VMs that it gives back.

Owns: the entries of :mod:`metastack.agent.reconcile.give_back`, and of marks that the disk does not take.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, agent, guard

AVAIL: Final = (
    Mutation(
        "ready-before-it-is-on-the-disk",
        "a session is used only when its number is on this host's disk",
        agent("session.session", "Session._write_down", "self._etcd_history.keep()"),
        ("state-folder-full",),
        evidence="expected",
        because="what it guards against needs an etcd that is restored just then, and nobody who says so",
    ),
    Mutation(
        "full-disk-holds-its-vms",
        "a node whose disk takes no mark, and whose guests are gone, leaves its VMs to others",
        agent("session.session", "Session._join", "await self._refuse_full_disk()"),
        ("state-folder-full-and-its-guests-are-gone",),
        evidence="expected",
        because="nobody writes: the VM is nowhere for as long as the disk is full",
    ),
    Mutation(
        "give-back-stray",
        "a start without an answer is waited for before a VM is given back",
        agent(
            "reconcile.vm_reconciler",
            "VmReconciler._release",
            "if memory.order_in_flight or memory.disk_in_flight:",
            "if (memory.order_in_flight or memory.disk_in_flight) and not action.penalty:",
        ),
        ("start-unanswered-then-given-back",),
    ),
    Mutation(
        "give-back-claim",
        "give_back: the claim is unchanged",
        guard("give_back", "unchanged(keys.claim(vm), held)"),
        ("give-back-arrives-late",),
    ),
    Mutation(
        "give-back-pinned",
        "a VM is given back only when another node would take it, and a pin leaves none",
        agent(
            "reconcile.give_back",
            "why",
            'return memory.node_fault if elsewhere(node.engine, node.name, spec) else ""',
            "return memory.node_fault",
        ),
        ("no-node-can-start-it",),
        evidence="expected",
        because="no disk is touched: the VM is nowhere, without a word why",
    ),
)
