"""Event routing: which work keys a change in etcd concerns. Pure; the agent queues what comes back.

Owns: the mapping from records to work. Refuses: doing any of it.
Rule: more is harmless, for a key that needs nothing ends at the first look; less is a VM that waits for the
periodic full look.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from ...core.model import VmId
from ...core.state.cluster_state import ClusterState
from ...core.state.keys import OF_A_NODE, Kind, ParsedKey
from ..upkeep.sweeper import orphaned
from .turns import ClaimTurns
from .volume_index import Names, VolumeIndex

Key = tuple[str, str, str]
"""``("vm", project, name)``, ``("node", name, "")``, ``("disk", project, uuid)`` or ``("task", what, "")``."""

ORPHANS: Key = ("task", "orphans", "")
BLOCKED: Key = ("task", "blocked", "")
TTL: Key = ("task", "ttl", "")
LEAVE: Key = ("task", "leave", "")
"""VMs of this node that should run elsewhere."""
MAINTENANCE: Key = ("task", "maintenance", "")
"""Whether the time of one that is on is over; also of a cluster's shutdown and of hosts that are away."""
SHUTDOWN: Key = ("task", "shutdown", "")
"""Whether the whole cluster is being shut down."""
DOMAINS: Key = ("task", "domains", "")
"""What libvirtd has, once more."""
OVERDUE: Key = ("task", "overdue", "")
"""VMs that wait although those who should take them have had their time."""


def mine(world: ClusterState, me: str, vm: VmId) -> bool:
    """A claim names this node."""
    return world.owner(vm) == me


def keys_of(
    touched: Iterable[ParsedKey],
    world: ClusterState,
    me: str,
    turns: ClaimTurns,
    disks: VolumeIndex,
    here: Callable[[VmId], bool],
) -> Iterator[Key]:
    """The work that news bear on, in the order of the news.

    ``here``: something of that VM is on this node, or remembered of it. The engine says which of those that
    wait are this node's business now.
    """
    nodes: set[str] = set()
    checked: set[Names] = set()
    """Disks that were looked at already: a claim comes after its disk's record, and asks for it once more."""
    for key in touched:
        match key.kind:
            case Kind.VM_STATUS | Kind.BREAK_LOCK:
                if mine(world, me, key.vm):
                    yield _vm(key.vm)
            case Kind.VM_SPEC | Kind.CLAIM | Kind.HALT:
                vm = key.vm
                own = mine(world, me, vm)
                if own or here(vm) or world.halt(vm) is not None:
                    yield _vm(vm)
                if own and key.kind is Kind.VM_SPEC:
                    yield LEAVE
                for names in disks.of(vm):
                    if names not in checked and orphaned(world, *names):
                        yield ("disk", *names)
            case Kind.VOLUME:
                checked.add(names := (key.names[0], key.names[1]))
                if orphaned(world, *names):
                    yield ("disk", *names)
            case Kind.CLUSTER:
                yield TTL
            case Kind.HOST_RETURN:
                yield MAINTENANCE
            case Kind.STORAGE:
                yield BLOCKED  # that looks whether the storage is this cluster's, too
                yield from (("node", name, "") for name in world.nodes())
            case _:
                pass
        if key.kind in OF_A_NODE:
            nodes.add(key.names[0])
            if key.names[0] == me:
                yield from (BLOCKED,) if key.kind is Kind.FENCE else (LEAVE,)
    yield from map(_vm, turns.to_look_at())
    if nodes:
        # Who comes or goes changes whose turn it is to do what only one should: fence, release.
        yield from (("node", name, "") for name in world.nodes() if name in nodes or _wants_care(world, name))
        yield from map(_vm, turns.to_release)


def _wants_care(world: ClusterState, node: str) -> bool:
    """A node that is not alive, or that somebody is fencing."""
    fence = world.fence(node)
    return world.alive(node) is None or (fence is not None and (fence.record is None or fence.record.intent))


def everything(world: ClusterState, me: str, known: Iterable[VmId], turns: ClaimTurns) -> Iterator[Key]:
    """All that this node may have to do with: after its session changed, and as a net under the events."""
    here = set(known)
    for vm in sorted(world.vms() | here):
        if vm in here or world.claim(vm) is None or mine(world, me, vm):
            yield _vm(vm)
    yield from (("node", name, "") for name in world.nodes())
    for wait in sorted(turns.engine.waiting.values(), key=lambda wait: wait.line):
        yield _vm(wait.vm)
    yield from map(_vm, turns.to_release)
    yield from (ORPHANS, LEAVE, TTL, MAINTENANCE, SHUTDOWN)


def _vm(vm: VmId) -> Key:
    return ("vm", vm.project, vm.name)
