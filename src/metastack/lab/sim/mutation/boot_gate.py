"""The last gate, as mutations; and how to go without it, so that every other step is judged by itself.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
Rule: the gate covers for nearly every step of the protocol. So all other mutations are judged with the gate
taken away as well, and not by the scenarios that are about it.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, Patch, agent, plan


def _judge(old: str, new: str, function: str = "judge") -> tuple[Patch, ...]:
    return (Patch("core.boot_gate", function, old, new),)


WITHOUT: Final = _judge("    found = [", "    return AllowBoot()\n    found = [")
"""No gate: whoever has the disk open, the guest starts."""

ABOUT: Final = frozenset(
    {
        "break-lock-of-a-living-node-is-refused",
        "claim-deleted-of-a-hung-owner",
        "claim-deleted-of-a-living-owner",
        "disk-locked-by-hand",
        "disk-opened-by-a-tool",
        "disk-opened-while-paused",
        "fence-closed-in-another-storage",
        "libvirtd-knows-nothing-of-a-guest",
        "libvirtd-loses-a-guest-and-is-fenced",
        "libvirtd-loses-a-guest-that-is-stopped",
        "libvirtd-loses-a-running-guest",
        "lock-by-hand-is-broken",
    }
)
"""Scenarios in which only the gate keeps a second writer away."""

GATE: Final[tuple[Mutation, ...]] = (
    Mutation(
        "control-gate",
        "the protocol needs no gate: it is there for what comes from outside (that is what ABOUT lists)",
        WITHOUT,
        harmless=True,
    ),
    Mutation(
        "gate-boot",
        "nothing is booted while a client that is not shut out has the disk open",
        agent(
            "reconcile.domain_actions",
            "DomainActions.boot",
            "if not await self._gate.passes(spec, memory):",
            "if False:",
        ),
        ("claim-deleted-of-a-hung-owner",),
        gate=True,
    ),
    Mutation(
        "gate-forged-fence",
        "a fence's record is not believed where the storage itself says that the client is let in",
        _judge("return opener.by_hand or not opener.shut_out", "return opener.by_hand", "in_the_way"),
        ("fence-closed-in-another-storage",),
        gate=True,
    ),
    Mutation(
        "gate-lost-node",
        "a client on a lost node has that node fenced first, also when it owns nothing",
        plan(
            "if not snapshot.unfenced_claims and not snapshot.suspected:",
            "if not snapshot.unfenced_claims:",
            "plan_fence",
        ),
        ("claim-deleted-of-a-hung-owner",),
        gate=True,
        evidence="expected",
        because="the VM waits for a person: nobody writes twice",
    ),
    Mutation(
        "gate-resume",
        "a paused guest is resumed only while nobody else has its disk open",
        agent(
            "reconcile.domain_actions",
            "DomainActions.resume",
            "if not await self._gate.passes(snapshot.spec.ok, memory, resuming=True):",
            "if False:",
        ),
        ("disk-opened-while-paused",),
        gate=True,
        evidence="expected",
        because="the stranger is no guest, so no judge counts its writes",
    ),
    Mutation(
        "gate-lost-qemu",
        "a QEMU that libvirtd does not know ends before its VM is given back",
        agent(
            "reconcile.vm_reconciler",
            "VmReconciler._release",
            "if await self._domain_actions.end_lost(snapshot, held.ok.uuid, held.ok.volume_uuid, memory):",
            "if False:",
        ),
        ("libvirtd-knows-nothing-of-a-guest",),
        gate=True,
    ),
    Mutation(
        "plan-lost",
        "a domain whose QEMU libvirtd has lost is neither undefined nor booted",
        plan("if snapshot.lost:", "if False:", "_mine"),
        ("libvirtd-loses-a-running-guest",),
        gate=True,
        evidence="expected",
        because="a kill ends the lost QEMU as well: the guest is restarted for nothing",
    ),
    Mutation(
        "gate-lost-qemu-counts",
        "nothing is booted beside a QEMU of the same UUID, and a kill ends it",
        (
            *_judge("if asked.pid and not asked.resuming:", "if False:"),
            *_judge(
                "if opener.client in asked.own and not asked.pid and opener.address in asked.here:",
                "if False:",
                "_dead",
            ),
            *_judge("return opener.by_hand or not opener.shut_out", "return False", "in_the_way"),
        ),
        ("libvirtd-knows-nothing-of-a-guest",),
        gate=True,
        one_edit=True,
    ),
)
