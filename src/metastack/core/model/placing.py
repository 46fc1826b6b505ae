"""Placement demands of a VM and placement facts of a node: labels, taints, groups, weights.

Owns: the words of placement; they are the field's (Kubernetes' where it has one).
Refuses: deciding with them (:mod:`metastack.core.placement`).
Rule: everything is a plain value with a default that demands nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

from msgspec import Meta, Struct, field


class Operator(StrEnum):
    """How a node's label is compared."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"
    GT = "Gt"
    LT = "Lt"


class NodeExpression(Struct, frozen=True, kw_only=True):
    """A demand on one label of the node. ``Gt`` and ``Lt`` compare whole numbers with the first value."""

    key: str
    operator: Operator = Operator.EXISTS
    values: tuple[str, ...] = ()


class Effect(StrEnum):
    """What a taint does to a VM that does not tolerate it."""

    NO_SCHEDULE = "NoSchedule"
    """The node does not take it; what runs there stays."""
    PREFER_NO_SCHEDULE = "PreferNoSchedule"
    """The node comes after all others."""


class Taint(Struct, frozen=True, kw_only=True):
    """A node keeps away VMs that do not tolerate this."""

    key: str
    value: str = ""
    effect: Effect = Effect.NO_SCHEDULE


class Toleration(Struct, frozen=True, kw_only=True):
    """A VM does not mind a taint: of this key (empty: any) and value (None: any)."""

    key: str = ""
    value: str | None = None

    def covers(self, taint: Taint) -> bool:
        return self.key in ("", taint.key) and self.value in (None, taint.value)


class GroupTerm(Struct, frozen=True, kw_only=True):
    """Near to, or far from, the VMs of the same project that carry all these labels."""

    labels: dict[str, str]
    topology: str = "node"
    """Label of the node that says what "near" is: ``node`` (the node itself), ``rack``, ``zone``, ..."""
    required: bool = True
    weight: Annotated[float, Meta(ge=0.0, le=100.0)] = 1.0
    """How much a preferred term counts, beside ``weight_*`` of the cluster's settings."""


class SpreadTerm(Struct, frozen=True, kw_only=True):
    """Spread the VMs with these labels evenly over the topology's domains."""

    labels: dict[str, str]
    topology: str = "zone"
    max_skew: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Largest difference between the fullest and the emptiest domain."""
    required: bool = True
    weight: Annotated[float, Meta(ge=0.0, le=100.0)] = 1.0


class PinMove(StrEnum):
    """What a VM that runs elsewhere than its pin says does about it."""

    STAY = "stay"
    """It runs on where it is; the pin counts the next time it is placed."""
    COLD = "cold"
    """The node that owns it stops it and lets it go, once the pinned node would take it."""


class Placement(Struct, frozen=True, kw_only=True):
    """What a person demands of the place."""

    node: str = ""
    """Pin by hand: only this node may take the VM."""
    move: PinMove = PinMove.STAY
    """With a pin: whether a running VM follows it."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels that the node must have."""
    expressions: tuple[NodeExpression, ...] = ()
    tolerations: tuple[Toleration, ...] = ()
    affinity: tuple[GroupTerm, ...] = ()
    anti_affinity: tuple[GroupTerm, ...] = ()
    spread: tuple[SpreadTerm, ...] = ()
    arch: str = ""
    """Architecture of the node, as ``uname -m`` says it; empty: any."""
    cpu_features: tuple[str, ...] = ()
    """Flags that the node's processor must have."""


class Ha(Struct, frozen=True, kw_only=True):
    """In which order VMs come back."""

    priority: Annotated[int, Meta(ge=-1000, le=1000)] = 0
    """Higher goes first when capacity or time is short."""
    start_after: tuple[str, ...] = ()
    """VMs of the same project that must be up first."""
    ready_port: Annotated[int, Meta(ge=0, le=65535)] = 0
    """TCP port on which this VM answers once it is up, for those that start after it; 0: running is enough."""


class Weights(Struct, frozen=True, kw_only=True):
    """How much each part of a node's score counts (``weight_*`` of the cluster's settings)."""

    spread: float = 1.0
    pack: float = 0.0
    balanced: float = 0.0
    image: float = 0.0
    last_node: float = 0.0
