"""What protects around silent storages and hung guests, as mutations.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
"""

from __future__ import annotations

from typing import Final

from .mutation import Mutation, Patch

_SILENCE: Final = "core.protocol.silence"


def _silent(old: str, new: str, function: str = "plan_silent") -> tuple[Patch, ...]:
    return (Patch(_SILENCE, function, old, new),)


SILENT: Final[tuple[Mutation, ...]] = (
    Mutation(
        "silent-delete",
        "the fence of a living node ends its session in the same transaction",
        _silent("Delete(keys.node_alive(victim)),", "", "intent_silent"),
        ("storage-silent-for-one-node",),
    ),
    Mutation(
        "silent-answered",
        "the fence of a living node fails when its storage has answered since",
        _silent("unchanged(keys.node_alive(victim), alive),", "", "intent_silent"),
        ("storage-returns-as-the-fence-is-sent",),
        evidence="expected",
        because="no disk is in danger: a node that is well loses its guests for a moment",
    ),
    Mutation(
        "silent-too-many",
        "nobody is fenced for a silent storage when most nodes fell silent or went since the last look",
        _silent("if snapshot.too_many:", "if False:"),
        ("storage-silent-and-others-go-meanwhile",),
        evidence="expected",
        because="no disk is in danger: a network's fault would empty one node after the other",
    ),
    Mutation(
        "silent-one-at-a-time",
        "so long after such a fence there is no other one",
        _silent("if snapshot.last is not None and (wait_s :=", "if False and (wait_s :="),
        ("storage-silent-one-after-the-other",),
        evidence="expected",
        because="no disk is in danger: a network's fault would empty one node after the other",
    ),
    Mutation(
        "silent-own-streak",
        "a silence counts only while the fencer's own storage answered",
        _silent(
            "snapshot.silent_for_s, snapshot.answers_me_for_s, snapshot.few",
            "snapshot.silent_for_s, snapshot.few",
        ),
        ("test:unit/core/test_silence.py",),
        evidence="test",
        because="no disk is in danger: whoever notices first that the storage is back would fence the others",
    ),
    Mutation(
        "silent-few",
        "a silence counts only while those of few nodes last",
        _silent("snapshot.answers_me_for_s, snapshot.few_for_s", "snapshot.answers_me_for_s"),
        ("storage-silent-for-most-nodes",),
        evidence="expected",
        because="no disk is in danger: of many that return, the last one would be fenced",
    ),
    # --- a hung guest
    Mutation(
        "hung-workers",
        "workers that wait for a QEMU get on when the session is lost",
        (Patch("agent.reconcile.in_flight", "drained", "await hypervisor.interrupt(late)", "pass"),),
        ("hung-guest-and-its-lease-is-revoked",),
        evidence="expected",
        because="no disk is in danger: the node is fenced, and all its guests with it, for one that hangs",
    ),
    Mutation(
        "hung-stop",
        "a stop waits for calls in flight with a bound",
        (
            Patch(
                "agent.reconcile.in_flight", "quiet_in_time", "asyncio.timeout(STOP_S)", "asyncio.timeout(None)"
            ),
        ),
        ("test:unit/agent/test_hung_guest.py",),
        evidence="test",
        because="no disk is in danger: the lease that a stopped agent leaves ends first",
    ),
)
"""Silent storages, and hung guests."""
