"""Explain: each node's verdict on a VM, and why."""

from __future__ import annotations

from msgspec import Struct

from ..model import GroupTerm, SpreadTerm, VmSpec
from . import scores
from .engine import PlacementEngine
from .groups import group_of, has_terms
from .nodes import NodeView
from .preferences import last_node


class Verdict(Struct, frozen=True, kw_only=True):
    """What one node says to one VM."""

    node: str
    fits: bool
    score: float = 0.0
    """Weighted sum of the parts; higher is better."""
    parts: dict[str, float] = {}
    reasons: tuple[str, ...] = ()
    """Why not; empty when it fits."""


class GroupRule(Struct, frozen=True, kw_only=True):
    """A rule of the VM about a group, and where that group's VMs are."""

    kind: str
    """``affinity``, ``anti-affinity`` or ``spread``."""
    group: str
    topology: str
    required: bool
    members: dict[str, int]
    """By domain, the VM itself left out."""
    term: GroupTerm | SpreadTerm


def group_rules(engine: PlacementEngine, spec: VmSpec) -> list[GroupRule]:
    """Every group rule that the VM has."""
    place, back, found = spec.placement, engine.without(spec.id), []
    try:
        for node in list(engine.nodes.values())[:1]:
            engine.refusals(spec, node)  # counts the groups, if nobody did
        kinds = (("affinity", place.affinity), ("anti-affinity", place.anti_affinity), ("spread", place.spread))
        for kind, terms in kinds:
            for term in terms:
                group = group_of(spec, term)
                members = engine.groups.members(group) if engine.nodes else {}
                rule = GroupRule(
                    kind=kind, group=group.text, topology=group.topology, required=term.required,
                    members=members, term=term,
                )  # fmt: skip
                found.append(rule)
    finally:
        back()
    return found


def explain(engine: PlacementEngine, spec: VmSpec) -> list[Verdict]:
    """What every node says to the VM as if it were nowhere yet: the best first, those that refuse last."""
    back = engine.without(spec.id)
    try:
        order = engine.head(spec, len(engine.nodes))
        rest = sorted(engine.nodes.keys() - set(order))
        return [_verdict(engine, spec, engine.nodes[name]) for name in order + rest]
    finally:
        back()


def _verdict(engine: PlacementEngine, spec: VmSpec, node: NodeView) -> Verdict:
    reasons = engine.refusals(spec, node)
    if reasons:
        return Verdict(node=node.name, fits=False, reasons=reasons)
    parts = _parts(engine, spec, node)
    return Verdict(
        node=node.name,
        fits=True,
        score=round(scores.total(parts, engine.weights), 6),
        parts={part: round(value, 6) for part, value in parts.items()},
    )


def _parts(engine: PlacementEngine, spec: VmSpec, node: NodeView) -> dict[str, float]:
    parts = scores.parts(spec, node, engine.weights)
    if engine.weights.last_node:
        parts["last_node"] = 1.0 if last_node(engine.world, spec) == node.name else 0.0
    if has_terms(spec):
        parts["groups"] = engine.groups.preference(spec, node)
    return parts


def score(engine: PlacementEngine, spec: VmSpec, node: NodeView) -> float:
    """What a node is worth to a VM left out (:meth:`.PlacementEngine.without`), whether it takes it or not."""
    return round(scores.total(_parts(engine, spec, node), engine.weights), 6)
