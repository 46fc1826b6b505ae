"""Filters: every reason why a node would not take a VM, in words to act on.

Owns: the only implementation of "may this node take it", but for groups (:mod:`.groups`).
Rule: no reason, no refusal. What does not change with the node's load is apart from what does, so that an
order of nodes is kept up to date without asking everything again.
"""

from __future__ import annotations

from typing import Final

from msgspec.structs import replace

from ..model import Effect, NodeExpression, NodeState, Operator, Penalty, Resources, VmSpec
from .nodes import NodeView


def refusals(spec: VmSpec, node: NodeView) -> tuple[str, ...]:
    """Every reason why the node would not take the VM; empty when it would."""
    still = lasting_refusals(spec, node)
    if node.state is NodeState.LOST:
        return still
    return still + capacity_refusals(spec, node)


def lasting_refusals(spec: VmSpec, node: NodeView) -> tuple[str, ...]:
    """Reasons that hold whatever else runs on the node."""
    reasons: list[str] = []
    place = spec.placement
    if place.node and place.node != node.name:
        reasons.append(f"the VM is pinned to {place.node}")
    if node.state is NodeState.LOST:
        return (*reasons, "the node is lost")
    if not node.ready:
        reasons.append("the node is not ready yet")
    elif not node.storage_ok:
        reasons.append("the node cannot reach its storage")
    if node.state is not NodeState.READY:
        reasons.append(f"the node is {node.state.value}")
    for nic in spec.nics:
        if nic.bridge not in node.bridges:
            reasons.append(f"has no bridge {nic.bridge!r}")
    for key, value in sorted(place.node_selector.items()):
        if node.labels.get(key) != value:
            reasons.append(f"needs label {key}={value}, the node has {_label(node, key)}")
    reasons += [
        f"needs {_words(e)}, the node has {_label(node, e.key)}"
        for e in place.expressions
        if not _holds(e, node)
    ]
    for taint in node.taints:
        if taint.effect is Effect.NO_SCHEDULE and not any(t.covers(taint) for t in place.tolerations):
            reasons.append(f"does not tolerate the taint {taint_text(taint.key, taint.value)}")
    # Safety of a kind: a node that does not say what it is may be right, and is refused all the same.
    if place.arch and place.arch != node.arch:
        reasons.append(f"needs a {place.arch} processor, the node is {node.arch or 'unknown'}")
    missing = [flag for flag in place.cpu_features if flag not in node.cpu_features]
    if missing and not node.cpu_features:
        reasons.append(
            f"the node does not report whether its processor has {', '.join(missing)} (nodes with KVM do)"
        )
    elif missing:
        reasons.append(f"its processor lacks {', '.join(missing)}")
    return tuple(reasons)


def penalty_refusal(penalty: Penalty) -> str:
    """Why a node is passed over that could not start the VM. Like a taint: for this VM, and for a while."""
    until = f"until {penalty.until}, or `metastack vm start`" if penalty.until else "until `metastack vm start`"
    return f"failed to start here: {penalty.reason}; {until}"


def has_capacity(spec: VmSpec, node: NodeView) -> bool:
    """Whether the node has enough of everything."""
    room, taken = node.room, node.promised
    if spec.cpus > room.cpus - taken.cpus + 1e-9 or spec.memory_mib > room.memory_mib - taken.memory_mib:
        return False
    return not spec.resources or all(
        needed <= room.other.get(what, 0) - taken.other.get(what, 0) for what, needed in spec.resources.items()
    )


def capacity_refusals(spec: VmSpec, node: NodeView) -> tuple[str, ...]:
    """What the node has too little of."""
    if has_capacity(spec, node):
        return ()
    room, taken = node.room, node.promised
    free_cpus, free_mib = room.cpus - taken.cpus, room.memory_mib - taken.memory_mib
    reasons: list[str] = []
    if spec.cpus > free_cpus + 1e-9:
        free = f"{max(0.0, free_cpus):g} of {room.cpus:g} are free"
        reasons.append(f"needs {spec.cpus} vCPU, {free}{_never(spec.cpus > room.cpus)}")
    if spec.memory_mib > free_mib:
        free = f"{max(0, free_mib)} of {room.memory_mib} are free"
        reasons.append(
            f"needs {spec.memory_mib} MiB of memory, {free}{_never(spec.memory_mib > room.memory_mib)}"
        )
    for what, needed in sorted(spec.resources.items()):
        whole = room.other.get(what, 0)
        left = whole - taken.other.get(what, 0)
        if needed > left:
            free = f"{max(0, left)} of {whole} are free{_never(needed > whole)}"
            reasons.append(f"needs {needed} {what}, {free if whole else 'the node has none'}")
    return tuple(reasons)


def too_large(spec: VmSpec, node: NodeView) -> tuple[str, ...]:
    """What the node would have too little of even if nothing ran on it."""
    return capacity_refusals(spec, replace(node, promised=Resources()))


def _never(too_large: bool) -> str:
    """An empty node would not take it either: waiting, or freeing capacity, is no way out."""
    return " (too large even for an empty node)" if too_large else ""


def reluctant(spec: VmSpec, node: NodeView) -> bool:
    """The node would rather not: a ``PreferNoSchedule`` taint that the VM does not tolerate."""
    tolerations = spec.placement.tolerations
    return any(
        taint.effect is Effect.PREFER_NO_SCHEDULE and not any(t.covers(taint) for t in tolerations)
        for taint in node.taints
    )


def _holds(e: NodeExpression, node: NodeView) -> bool:
    value = node.domain(e.key) if e.key == "node" else node.labels.get(e.key)
    match e.operator:
        case Operator.IN:
            return value is not None and value in e.values
        case Operator.NOT_IN:
            return value not in e.values
        case Operator.EXISTS:
            return value is not None
        case Operator.DOES_NOT_EXIST:
            return value is None
        case Operator.GT | Operator.LT:
            try:
                have, wanted = int(value or ""), int(e.values[0])
            except (ValueError, IndexError):
                return False
            return have > wanted if e.operator is Operator.GT else have < wanted


def _label(node: NodeView, key: str) -> str:
    value = node.labels.get(key)
    return f"no label {key}" if value is None else f"{key}={value}"


_SIGNS: Final = {Operator.IN: "=", Operator.NOT_IN: "!=", Operator.GT: ">", Operator.LT: "<"}
"""As ``--require-label`` takes them."""


def _words(e: NodeExpression) -> str:
    if e.operator in (Operator.EXISTS, Operator.DOES_NOT_EXIST):
        return f"{'a' if e.operator is Operator.EXISTS else 'no'} label {e.key}"
    return f"label {e.key}{_SIGNS[e.operator]}{','.join(e.values)}"


def taint_text(key: str, value: str) -> str:
    """A taint as people write it."""
    return f"{key}={value}" if value else key
