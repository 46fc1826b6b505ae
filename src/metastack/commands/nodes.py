"""What a person can ask of a node: cordon, uncordon, label.

Owns: every write to ``desired/nodes``. Refuses: nodes that never joined.
Rule: an edit keeps every field that it does not name, under a guard on the revision that it read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from msgspec.structs import replace

from metastack.core.change import Guard, Put
from metastack.core.codec import encode
from metastack.core.model import NodeFacts, NodeSpec
from metastack.core.world import mod_of

from . import names
from .deed import Cluster, Deed, Kept, Plan, commit, readable
from .problem import not_found


async def cordon_node(cluster: Cluster, deed: Deed, node: str) -> bool:
    """Let the node take no further VM; those it has stay. False when it was so already."""
    return await _edit(cluster, deed, node, "node.cordon", lambda spec: replace(spec, cordoned=True))


async def uncordon_node(cluster: Cluster, deed: Deed, node: str) -> bool:
    """Let the node take VMs again; ends draining too. False when it was so already."""
    return await _edit(
        cluster, deed, node, "node.uncordon", lambda spec: replace(spec, cordoned=False, draining=False)
    )


async def label_node(cluster: Cluster, deed: Deed, node: str, put: dict[str, str], drop: set[str]) -> bool:
    """Set and remove labels. False when they were so already."""

    def edit(spec: NodeSpec) -> NodeSpec:
        kept = {key: value for key, value in spec.labels.items() if key not in drop}
        return replace(spec, labels=names.bounded_labels({**kept, **put}))

    return await _edit(cluster, deed, node, "node.label", edit)


async def _edit(
    cluster: Cluster, deed: Deed, node: str, what: str, edit: Callable[[NodeSpec], NodeSpec]
) -> bool:
    names.name("node", node)
    names.reason(deed.reason)
    object, key = f"node {node}", cluster.keys.node_spec(node)

    async def look() -> Plan[bool] | Kept[bool]:
        facts, found = await asyncio.gather(
            cluster.read(NodeFacts, cluster.keys.node_facts(node)), cluster.read(NodeSpec, key)
        )
        if facts is None and found is None:
            raise not_found(object, "`metastack node list` shows the nodes that joined")
        before = readable(found, object) if found is not None else NodeSpec()
        after = edit(before)
        if after == before:
            return Kept(False)
        after = replace(after, by=deed.by, reason=deed.reason, request_id=deed.request_id)
        return Plan(
            guards=(Guard(key, "mod", mod_of(found)),),
            effects=(Put(key, encode(after)),),
            what=what,
            object=object,
            answer=True,
        )

    return await commit(cluster, deed, look)
