"""Who this node is, to the etcd that it reached: known, a stranger, or another machine of the same name.

Owns: the two questions that are asked before a session begins. Refuses: deciding what to do without one.
Rule: a session under a name speaks for every claim of that name, so it is one machine's and no other's.
"""

from __future__ import annotations

from ..core.keys import Keys
from ..core.model import NodeFacts
from ..core.world import seen
from ..ports import Broken, Refused, Store
from .marks import Marks
from .mirror import Mirror


async def refuse_strange_etcd(name: str, keys: Keys, store: Store, mirror: Mirror, marks: Marks) -> None:
    """Raise Refused for an etcd that should know this node and does not, or whose generation is unreadable.

    Safety: in an empty or foreign etcd nothing claims my guests and nothing names the images: they would be
    killed and removed because of a wrong endpoint or root in the configuration.
    """
    generation = mirror.world.generation_seen()
    if generation is not None and generation.record is None:
        raise Refused(f"the cluster's generation cannot be read: {generation.why}")
    if marks.joined() and await store.get(keys.node_facts(name)) is None:
        raise Refused(
            f"this etcd does not know node {name}, which joined a cluster before: wrong endpoints, root or "
            "name, or a lost etcd? To join this one, remove the file 'joined' from state_dir"
        )


async def refuse_namesake(
    name: str, keys: Keys, store: Store, mirror: Mirror, marks: Marks, *, alive: bool
) -> None:
    """Raise Broken or Refused while another machine may answer for claims of this name.

    Safety: a claim that names me is mine to adopt only if its guest runs here or nowhere. Another machine
    under my name may run it, though its lease is lost: then it must be fenced, and the claim taken over.
    """
    entry = await store.get(keys.node_facts(name))
    if entry is None:
        return
    found, mine = seen(NodeFacts, entry), marks.node_uuid("")
    if found.record is None:
        raise Refused(f"the record of this node cannot be read: {found.why}")
    if found.record.uuid == mine:
        return
    who = f"a node called {name!r} with another identity ({found.record.uuid}, mine is {mine})"
    if alive:
        raise Broken(f"{who} is alive: give this node another name")
    await mirror.look()
    if mirror.world.unfenced(name):
        raise Refused(
            f"{who} may still run VMs: waiting until it is fenced. Give this node another name; or, if it is "
            "that machine made anew, write that identity into the file 'node-uuid' in state_dir"
        )
