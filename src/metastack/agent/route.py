"""Routes: which keys of work a change of the world bears on. Pure; the agent queues what comes back.

Owns: the mapping from records to work. Refuses: doing any of it.
Rule: more is harmless, for a key that needs nothing ends at the first look; less is a VM that waits for the
periodic full look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ..core.keys import Kind, ParsedKey
from ..core.model import VmId
from ..core.placement import unanswered, waiting
from ..core.world import World

Key = tuple[str, str, str]
"""``("vm", project, name)``, ``("node", name, "")``, ``("disk", project, uuid)`` or ``("task", what, "")``."""

ORPHANS: Key = ("task", "orphans", "")
BLOCKED: Key = ("task", "blocked", "")
TTL: Key = ("task", "ttl", "")

_OF_A_NODE = (Kind.NODE_ALIVE, Kind.FENCE, Kind.NODE_SPEC, Kind.NODE_FACTS)


def about_nodes(touched: Iterable[ParsedKey]) -> bool:
    """True when a node's records are among them."""
    return any(key.kind in _OF_A_NODE for key in touched)


def mine(world: World, me: str, vm: VmId) -> bool:
    """A claim names this node."""
    claim = world.claim(vm)
    return claim is not None and claim.record is not None and claim.record.node == me


def keys_of(touched: Iterable[ParsedKey], world: World, me: str) -> Iterator[Key]:
    """The work that news bear on, in an order that does not depend on the process's hash seed."""
    room_changed = False
    for key in sorted(touched, key=lambda key: (key.kind, key.names)):
        match key.kind:
            case Kind.VM_STATUS:
                if mine(world, me, key.vm):
                    yield _vm(key.vm)
            case Kind.VM_SPEC | Kind.CLAIM | Kind.HALT:
                yield _vm(key.vm)
                if world.spec(key.vm) is None:
                    yield ORPHANS
                room_changed = room_changed or key.kind is Kind.CLAIM
            case Kind.VOLUME:
                yield ORPHANS
            case Kind.FENCE if key.names[0] == me:
                yield BLOCKED
            case Kind.CLUSTER:
                yield TTL
            case _:
                pass
        if key.kind is Kind.CLUSTER or key.kind in _OF_A_NODE:
            room_changed = True
    if about_nodes(touched):
        yield from (("node", name, "") for name in world.nodes())
    if room_changed:
        yield from _unanswered(world)


def everything(world: World, me: str, known: Iterable[VmId]) -> Iterator[Key]:
    """All that this node may have to do with: after its session changed, and as a net under the events."""
    here = set(known)
    for vm in sorted(world.vms() | here):
        if vm in here or world.claim(vm) is None or mine(world, me, vm):
            yield _vm(vm)
    yield from (("node", name, "") for name in world.nodes())
    yield from _unanswered(world)
    yield ORPHANS


def _unanswered(world: World) -> Iterator[Key]:
    """Who waits for a node, and the claims of sessions that a fence reached, wanted or not."""
    yield from map(_vm, waiting(world))
    for vm, claim in world.claims():
        if claim.record is not None and unanswered(world, vm):
            yield _vm(vm)


def _vm(vm: VmId) -> Key:
    return ("vm", vm.project, vm.name)
