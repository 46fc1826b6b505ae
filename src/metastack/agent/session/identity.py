"""The node's identity in the etcd that it reached: its own, or another machine of its name or address.

Owns: the questions that are asked before a session begins. Refuses: deciding what to do without one; whether
that etcd is to be believed at all (agent/session/etcd_history).
Rule: a session under a name speaks for every claim of that name, so it is one machine's and no other's.
"""

from __future__ import annotations

from ...core.model import Generation, NodeFacts
from ...core.state.cluster_state import Seen, seen
from ...core.state.keys import Keys, Kind
from ...ports import Broken, Refused, Store
from ..cache.informer import Informer
from .state_files import StateFiles


class Misconfigured(Refused):
    """This node may not be ready, and nothing but another configuration will change that."""


def refuse_generation(informer: Informer) -> None:
    """Raise Refused when the cluster's generation cannot be read: every number begins with it."""
    generation = informer.world.generation_seen()
    if generation is not None and generation.record is None:
        raise Refused(f"the cluster's generation cannot be read: {generation.why}")


def believed_generation(informer: Informer, etcd_recognised: bool) -> tuple[Seen[Generation] | None, int]:
    """The generation that the next session begins with; raises Refused for one that no listing was judged by,
    or none since this node was on its way to that session.

    Safety: raised since, another history begins. A node that registered in it first and found that out later
    would go on with what it knew of the one before. It would trust nothing of its own any more.
    """
    world = informer.world
    if not etcd_recognised or world.generation != informer.etcd_history.known.generation:
        raise Refused("the generation was raised just now: looking again")
    return world.generation_seen(), world.generation


async def refuse_shared(name: str, addresses: tuple[str, ...], keys: Keys, store: Store) -> None:
    """Raise Misconfigured when another node declared an address of this node.

    Safety: in lifting its own block this node would lift that node's, whose guests may live. Fresh from etcd,
    after this node's own declaration: of two nodes that join at once one sees the other at least.
    """
    snapshot = await store.list(keys.prefix(Kind.NODE_FACTS))
    for entry in snapshot.entries:
        other = seen(NodeFacts, entry).record
        if other is None or other.name == name:
            continue
        if shared := set(other.storage_addresses) & set(addresses):
            raise Misconfigured(
                f"node {other.name} has the storage address {', '.join(sorted(shared))} too: give each its "
                f"own; if that node is gone for good: metastack node remove {other.name}"
            )


async def refuse_namesake(
    name: str, store: Store, informer: Informer, state_files: StateFiles, *, alive: bool
) -> None:
    """Raise Broken or Refused while another machine may own claims of this name.

    Safety: this node may adopt a claim that names it only if the guest runs here or nowhere. Another machine
    under this node's name may run it, though its lease is lost: then it must be fenced, and the claim taken
    over.
    """
    entry = await store.get(informer.world.keys.node_facts(name))
    if entry is None:
        return
    found, mine = seen(NodeFacts, entry), state_files.node_uuid("")
    if found.record is None:
        raise Refused(f"the record of this node cannot be read: {found.why}")
    if found.record.uuid == mine:
        return
    who = f"a node called {name!r} with another identity ({found.record.uuid}, mine is {mine})"
    if alive:
        raise Broken(f"{who} is alive: give this node another name")
    await informer.look()
    if informer.world.unfenced(name):
        raise Refused(
            f"{who} may still run VMs: waiting until it is fenced. Give this node another name; or, if it is "
            "that machine reinstalled, write that identity into the file 'node-uuid' in state_dir"
        )
