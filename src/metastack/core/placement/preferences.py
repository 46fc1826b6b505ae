"""Preferences: what makes one VM like a node more than another VM of its shape does."""

from __future__ import annotations

from collections.abc import Callable

from ..model import VmSpec
from ..state.cluster_state import ClusterState
from . import filters
from .groups import Groups, has_terms, terms
from .misses import Misses
from .nodes import NodeView


def preference(
    world: ClusterState, groups: Groups, nodes: dict[str, NodeView], spec: VmSpec
) -> Callable[[str], int] | None:
    """What is added to a node's score (millionths) for this VM alone; None when nothing ever is."""
    soft = has_terms(spec) and any(not term.required for term in terms(spec))
    last = last_node(world, spec)
    if not soft and not last:
        return None
    bonus = round(world.config.weight_last_node * 1e6)

    def moved(name: str) -> int:
        more = round(groups.preference(spec, nodes[name]) * 1e6) if soft else 0
        return more + (bonus if name == last else 0)

    return moved


def hinted(world: ClusterState, nodes: dict[str, NodeView], misses: Misses, spec: VmSpec) -> str:
    """The node that a scheduler names, if it would take the VM; empty: none."""
    hint = world.hint(spec.id)
    if hint is None or hint.record is None or hint.record.uuid != spec.uuid:
        return ""
    there = nodes.get(hint.record.node)
    if there is None or filters.refusals(spec, there) or misses.charged(there.name):
        return ""
    return there.name


def last_node(world: ClusterState, spec: VmSpec) -> str:
    """Where the VM ran last, if the cluster's settings make that count."""
    if not world.config.weight_last_node:
        return ""
    volume = world.volume(spec.project, spec.volume_uuid)
    return volume.record.last_node if volume is not None and volume.record is not None else ""
