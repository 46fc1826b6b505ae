"""What holds a node's name to one machine, and one libvirt to one agent, as mutations.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
Rule: where two steps cover each other, the entry takes both away, and says why.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, agent

NOT_MINE: Final = (
    *agent(
        "reconcile.vm_reconciler", "VmReconciler._domains", "if not of_another(domain, self._node.name)", ""
    ),
    *agent("agent", "Agent._note_domains", "and not of_another(domain, self.node.name)", ""),
)
ONE_MACHINE: Final[tuple[Mutation, ...]] = (
    Mutation(
        "another-alive",
        "an alive key of another boot is not revoked as this machine's own, nor is its session gone on with",
        agent("session.other_boot", "OtherBoot.mine", 'in ("", self.boot_id)', "is not None"),
        ("clone-of-a-hung-host",),
    ),
    Mutation(
        "another-fenced-first",
        "a machine of another boot leaves the claims of the one before it to the others' fence first",
        agent("session.other_boot", "OtherBoot._refuse_soon", "if not self.rebooted or", "if True or"),
        ("clone-of-a-hung-host",),
    ),
    Mutation(
        "another-unblock",
        "a machine of another boot lifts no block of an address that is not its own",
        agent(
            "session.storage_clients",
            "StorageClients.prepare_registration",
            "if not same_boot or self",
            "if self",
        ),
        ("clone-with-the-same-settings-of-a-hung-host",),
        evidence="expected",
        because="the original's guests stopped at their first refused write, and its agent hangs",
    ),
    Mutation(
        "place-kept",
        "an agent that waits for its storage keeps the place of the one before",
        agent("session.lease_keeper", "LeaseKeeper._keep", "if found.record is None or", "if True or"),
        ("agent-restarts-while-the-monitors-are-away",),
        evidence="expected",
        because="a node that is fenced without need loses its guests, and no disk a writer",
    ),
    Mutation(
        "place-given-up",
        "it gives the place up when the storage answers others",
        agent("session.lease_keeper", "LeaseKeeper._alone", "return bool(lost_s) and", "return False and"),
        ("agent-restarts-and-only-its-storage-is-away",),
        evidence="expected",
        because="a VM that stays where it cannot run is down, and harms nobody",
    ),
    Mutation(
        "one-libvirt",
        "an agent of another name is refused, or at least no domain that names another node is its business",
        (
            *agent(
                "agent", "Agent.run", 'await retry_until_stopped("libvirt\'s lock", self._take_libvirt, stop)'
            ),
            *NOT_MINE,
        ),
        ("second-agent-on-a-libvirt",),
        evidence="destroyed",
        because="a guest that is ended writes nothing; where it is booted again is a matter of chance",
    ),
    Mutation(
        "another-nodes-domain",
        "a domain that names another node is not ended, when nobody holds that libvirt just now",
        NOT_MINE,
        ("second-agent-while-the-first-is-away",),
        evidence="destroyed",
        because="a guest that is ended writes nothing",
    ),
)
