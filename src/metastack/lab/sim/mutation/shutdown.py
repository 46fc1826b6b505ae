"""What a host's shutdown does and holds back, as mutations.

Owns: that part of the list. Refuses: knowing who notices; ``seen_by`` only says who is asked first.
"""

from __future__ import annotations

from typing import Final

from .mutation import CLAIMS, Mutation, Patch, agent, fence_guard, plan

_NO_DISK: Final = "no disk is in danger: without it a VM waits longer, or starts where it need not"
_UPKEEP: Final = "upkeep.host_shutdown"
_DECIDE: Final = "core.host_shutdown"


def _step(name: str, step: str, patches: tuple[Patch, ...], scenario: str) -> Mutation:
    return Mutation(name, step, patches, (scenario,), evidence="expected", because=_NO_DISK)


SHUTDOWN: Final[tuple[Mutation, ...]] = (
    _step(
        "shutdown-told-apart",
        "a host that shuts down is told from an agent that is restarted",
        agent(_UPKEEP, "HostShutdown.run", "if not await self._host_stops():", "if True:"),
        "shutdown-releases",
    ),
    _step(
        "shutdown-no-halt",
        "a guest that ends while its host shuts down is not taken for one that switched itself off",
        plan("or claim.to_release or snapshot.host_stop:", "or claim.to_release:", "_mine"),
        "shutdown-releases",
    ),
    _step(
        "shutdown-forces-no-guest-that-is-kept",
        "a guest that nobody waits for is left to its host",
        plan("snapshot.stop_left_s is not None and snapshot.stop_left_s <= 0", "False", "_rest"),
        "shutdown-returns-with-a-stubborn-guest",
    ),
    _step(
        "shutdown-held",
        "a host that is expected back is not fenced: asked before the intent, and in it",
        (
            *plan("snapshot.paused or snapshot.expected", "snapshot.paused", "plan_fence"),
            *fence_guard("intent", "not_expected(keys, victim)"),
        ),
        "shutdown-returns",
    ),
    _step(
        "shutdown-ends",
        "a host that never returns is waited for once",
        (
            Patch("core.protocol.host_return", "leave", "leased=True", "leased=False"),
            *agent("upkeep.maintenance", "LeasedEnds._on", "for name in world.nodes():", "for name in ():"),
        ),
        "shutdown-and-no-return",
    ),
    _step(
        "shutdown-over",
        "a host that is back is fenced like any other",
        (
            Patch(CLAIMS, "register", "Delete(keys.host_return(alive.name)),", ""),
            *agent(_UPKEEP, "HostShutdown._stay", "if found is not None and", "if False and"),
        ),
        "shutdown-returns-and-dies",
    ),
    _step(
        "shutdown-nobody-would-take-it",
        "a VM that no other node would take is kept",
        (Patch(_DECIDE, "fate", "if taker(engine, node, spec) else HostStop.KEEP", ""),),
        "shutdown-and-nobody-would-take-it",
    ),
    _step(
        "shutdown-maintenance",
        "under maintenance a host's VMs wait for it",
        (Patch(_DECIDE, "decide", "if why := paused(world):", "if why := '':"),),
        "shutdown-under-maintenance",
    ),
    _step(
        "shutdown-silent",
        "with its storage silent a host's VMs wait for it",
        (Patch(_DECIDE, "decide", "if silent_since:", "if False:"),),
        "shutdown-with-the-storage-silent",
    ),
    _step(
        "shutdown-of-the-cluster",
        "in a shutdown of the cluster every host keeps its VMs",
        agent(_UPKEEP, "HostShutdown.look", "if self._leaving or not node.session.ready:", "if True:"),
        "shutdown-of-the-cluster",
    ),
    _step(
        "shutdown-of-the-cluster-boots",
        "a host that has booted since is through with it",
        (
            Patch(
                "core.protocol.cluster_shutdown",
                "going_down",
                "or found.record.boots.get(node) != boot_id:",
                "or node not in found.record.boots:",
            ),
        ),
        "shutdown-of-the-cluster",
    ),
    _step(
        "shutdown-of-the-cluster-ends",
        "hosts that are still up after the shutdown of the cluster start their VMs again",
        agent(_UPKEEP, "HostShutdown.look", "return await self._stay()", "return 0.0"),
        "shutdown-of-the-cluster-that-nobody-finishes",
    ),
    _step(
        "shutdown-late",
        "the absence of a host lasts no longer for a new leader of etcd",
        agent("upkeep.maintenance", "LeasedEnds._on", "for name in world.nodes():", "for name in ():"),
        "shutdown-and-a-new-leader",
    ),
    _step(
        "shutdown-without-etcd",
        "guests are asked to stop without etcd, too",
        agent(_UPKEEP, "HostShutdown._ask_without_session", "self._node.session.ready or", "True or"),
        "shutdown-in-an-etcd-outage",
    ),
)
