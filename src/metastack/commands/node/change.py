"""What a person can ask of a node: cordon, drain, label, taint.

Owns: every write to ``desired/nodes``. Refuses: nodes that never joined.
Rule: an edit keeps every field that it does not name, under a guard on the revision that it read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from metastack.core.model import Effect, NodeFacts, NodeSpec, OnHostShutdown, Taint
from metastack.core.placement import taint_text
from metastack.core.state.cluster_state import mod_of
from metastack.core.state.codec import encode
from metastack.core.transaction import Guard, Put

from .. import names
from ..problem import not_found, usage
from ..request import Cluster, Plan, Request, Unchanged, commit, readable

MAX_TAINTS: Final = 64


class TaintChange(Struct, frozen=True, kw_only=True):
    """Taints to put, and those to remove: of that effect, or (None) of any."""

    put: tuple[Taint, ...] = ()
    drop: tuple[tuple[str, Effect | None], ...] = ()


async def cordon_node(cluster: Cluster, request: Request, node: str) -> bool:
    """Let the node take no further VM; those it has stay. False when it was so already."""
    return await _edit(cluster, request, node, "node.cordon", lambda spec: replace(spec, cordoned=True))


async def uncordon_node(cluster: Cluster, request: Request, node: str) -> bool:
    """Let the node take VMs again; ends draining too. False when it was so already."""
    return await _edit(
        cluster, request, node, "node.uncordon", lambda spec: replace(spec, cordoned=False, draining=False)
    )


async def shutdown_policy(cluster: Cluster, request: Request, node: str, policy: OnHostShutdown | None) -> bool:
    """Choose what becomes of the node's VMs when its host shuts down. None: as the cluster's setting says."""
    return await _edit(
        cluster, request, node, "node.on_shutdown", lambda spec: replace(spec, on_host_shutdown=policy)
    )


async def label_node(
    cluster: Cluster, request: Request, node: str, put: dict[str, str], drop: set[str]
) -> bool:
    """Set and remove labels. False when they were so already."""

    if "node" in put:
        # As a topology and in --require-label "node" is the node itself: such a label would never count.
        raise usage("label", "node is reserved for the node's name", "choose another key")

    def edit(spec: NodeSpec) -> NodeSpec:
        kept = {key: value for key, value in spec.labels.items() if key not in drop}
        return replace(spec, labels=names.bounded_labels({**kept, **put}))

    return await _edit(cluster, request, node, "node.label", edit)


async def taint_node(cluster: Cluster, request: Request, node: str, change: TaintChange) -> bool:
    """Put and remove taints. False when they were so already."""

    def edit(spec: NodeSpec) -> NodeSpec:
        found = {(taint.key, taint.effect): taint for taint in spec.taints}
        for key, effect in change.drop:
            for known in [one for one in found if one[0] == key and effect in (None, one[1])]:
                del found[known]
        found |= {(taint.key, taint.effect): taint for taint in change.put}
        if len(found) > MAX_TAINTS:
            raise usage("taint", f"{len(found)} taints are too many", f"at most {MAX_TAINTS}")
        return replace(spec, taints=tuple(found[key] for key in sorted(found)))

    return await _edit(cluster, request, node, "node.taint", edit)


async def drain_node(cluster: Cluster, request: Request, node: str) -> bool:
    """Let the node take no further VM and let go of those it has, one by one. False when it was so already."""
    return await _edit(cluster, request, node, "node.drain", lambda spec: replace(spec, draining=True))


async def undrain_node(cluster: Cluster, request: Request, node: str) -> bool:
    """End the draining; a cordon stays. False when it was so already."""
    return await _edit(cluster, request, node, "node.undrain", lambda spec: replace(spec, draining=False))


def taint_changes(texts: list[str]) -> TaintChange:
    """``KEY[=VALUE][:EFFECT]`` puts one, ``KEY[:EFFECT]-`` removes it."""
    put: list[Taint] = []
    drop: list[tuple[str, Effect | None]] = []
    for text in texts:
        gone = text.endswith("-") and "=" not in text
        head, colon, word = text.removesuffix("-" if gone else "").partition(":")
        effect = _effect(text, word) if colon else None
        key, _, value = head.partition("=")
        if gone:
            drop.append((names.label_key(key), effect))
            continue
        value = names.label_value(names.label_key(key), value)
        put.append(Taint(key=key, value=value, effect=effect or Effect.NO_SCHEDULE))
    both = {taint.key for taint in put} & {key for key, _ in drop}
    if both:
        raise usage("taint", f"{sorted(both)[0]} is both set and removed")
    return TaintChange(put=tuple(put), drop=tuple(drop))


def _effect(text: str, word: str) -> Effect:
    hint = "NoSchedule: only VMs that tolerate it fit; PreferNoSchedule: the node ranks last"
    if word == "NoExecute":
        hint = "`metastack node drain NODE` moves its VMs to other nodes; " + hint
    try:
        return Effect(word)
    except ValueError:
        raise usage("taint", f"{word!r} in {text!r} is not an effect of a taint", hint) from None


def full_taint(taint: Taint) -> str:
    """A taint as it is typed, with its effect."""
    return f"{taint_text(taint.key, taint.value)}:{taint.effect.value}"


async def _edit(
    cluster: Cluster, request: Request, node: str, what: str, edit: Callable[[NodeSpec], NodeSpec]
) -> bool:
    names.name("node", node)
    names.reason(request.reason)
    object, key = f"node {node}", cluster.keys.node_spec(node)

    async def look() -> Plan[bool] | Unchanged[bool]:
        facts, found = await asyncio.gather(
            cluster.read(NodeFacts, cluster.keys.node_facts(node)), cluster.read(NodeSpec, key)
        )
        if facts is None and found is None:
            raise not_found(object, "`metastack node list` shows the nodes that joined")
        before = readable(found, object) if found is not None else NodeSpec()
        after = edit(before)
        if after == before:
            return Unchanged(False)
        after = replace(after, by=request.by, reason=request.reason, request_id=request.request_id)
        return Plan(
            guards=(Guard(key, "mod", mod_of(found)),),
            effects=(Put(key, encode(after)),),
            what=what,
            object=object,
            answer=True,
        )

    return await commit(cluster, request, look)
