"""The records that live in etcd, and the names and bounds they must keep.

Owns: the shape of every record, the number types (session, epoch, through) and what a valid name is.
Refuses: I/O, clocks, defaults that depend on a machine.
Rule: a record changes only with a new ``v`` and a golden file; readers ignore unknown fields and refuse a
newer ``v`` (see :mod:`metastack.core.codec`).
"""

from __future__ import annotations

from typing import Final

from .config import ClusterConfig, Fencing, Image, ImageState, Project
from .desired import Nic, NodeSpec, Placement, VmSpec
from .durable import Claim, Fence, FenceReceipt, Halt, NodeFacts, Volume, resolved_claim, resolved_intent
from .leased import Event, Generation, NodeAlive, Resources, Ticket, VmStatus
from .names import NAME_RE, NodeState, Phase, Power, VmId, valid_name
from .numbers import Record, token, token_generation, token_revision

RECORDS: Final[dict[str, type[Record]]] = {
    "cluster": ClusterConfig,
    "project": Project,
    "image": Image,
    "vm_spec": VmSpec,
    "node_spec": NodeSpec,
    "claim": Claim,
    "node_facts": NodeFacts,
    "fence": Fence,
    "halt": Halt,
    "volume": Volume,
    "node_alive": NodeAlive,
    "vm_status": VmStatus,
    "event": Event,
    "ticket": Ticket,
    "generation": Generation,
}
"""Every record kind, by the name of its golden file."""

__all__ = [
    "NAME_RE",
    "RECORDS",
    "Claim",
    "ClusterConfig",
    "Event",
    "Fence",
    "FenceReceipt",
    "Fencing",
    "Generation",
    "Halt",
    "Image",
    "ImageState",
    "Nic",
    "NodeAlive",
    "NodeFacts",
    "NodeSpec",
    "NodeState",
    "Phase",
    "Placement",
    "Power",
    "Project",
    "Record",
    "Resources",
    "Ticket",
    "VmId",
    "VmSpec",
    "VmStatus",
    "Volume",
    "resolved_claim",
    "resolved_intent",
    "token",
    "token_generation",
    "token_revision",
    "valid_name",
]
