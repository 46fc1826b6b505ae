"""The records that live in etcd, and the names and bounds they must keep.

Owns: the shape of every record, the number types (session, epoch, through) and what a valid name is.
Refuses: I/O, clocks, defaults that depend on a machine.
Rule: a record changes only with a new ``v`` and a golden file; readers ignore unknown fields and refuse a
newer ``v`` (see :mod:`metastack.core.state.codec`).
"""

from __future__ import annotations

from typing import Final

from .config import (
    CAREFUL,
    Admission,
    Backup,
    ClusterConfig,
    Fencing,
    Image,
    ImageState,
    OnHostShutdown,
    Project,
)
from .desired import Nic, NodeSpec, VmSpec
from .durable import (
    Claim,
    Fence,
    FenceReceipt,
    Group,
    Halt,
    NodeFacts,
    Removal,
    Silenced,
    Volume,
    is_halted,
    resolved_claim,
    resolved_intent,
)
from .joining import Credential, JoinAnswer, JoinRequest, JoinSettings, JoinToken, RevokedSerial
from .leased import Event, Generation, Hint, Leader, NodeAlive, Penalty, Resources, Ticket, VmStatus
from .names import NAME_RE, NodeState, Phase, Power, VmId, valid_name
from .numbers import Record, token, token_generation, token_revision
from .placing import (
    Effect,
    GroupTerm,
    Ha,
    NodeExpression,
    Operator,
    PinMove,
    Placement,
    SpreadTerm,
    Taint,
    Toleration,
    Weights,
)
from .refusal import Refusal, Running
from .removal import Counted, Import, Trashed
from .requests import BreakLock, ClusterShutdown, HostReturn, Maintenance
from .secret import Secret
from .storage import StorageIdentity, StoragePlace

RECORDS: Final[dict[str, type[Record]]] = {
    "cluster": ClusterConfig,
    "admission": Admission,
    "backup": Backup,
    "project": Project,
    "image": Image,
    "vm_spec": VmSpec,
    "node_spec": NodeSpec,
    "claim": Claim,
    "node_facts": NodeFacts,
    "fence": Fence,
    "halt": Halt,
    "group": Group,
    "hint": Hint,
    "leader": Leader,
    "penalty": Penalty,
    "volume": Volume,
    "node_alive": NodeAlive,
    "vm_status": VmStatus,
    "event": Event,
    "ticket": Ticket,
    "generation": Generation,
    "refusal": Refusal,
    "removal": Removal,
    "storage": StorageIdentity,
    "trashed": Trashed,
    "counted": Counted,
    "import": Import,
    "silenced": Silenced,
    "break_lock": BreakLock,
    "maintenance": Maintenance,
    "secret": Secret,
    "host_return": HostReturn,
    "join_token": JoinToken,
    "join_request": JoinRequest,
    "join_answer": JoinAnswer,
    "credential": Credential,
    "cluster_shutdown": ClusterShutdown,
}
"""Every record kind, by the name of its golden file."""

__all__ = [
    "CAREFUL",
    "NAME_RE",
    "RECORDS",
    "Admission",
    "Backup",
    "BreakLock",
    "Claim",
    "ClusterConfig",
    "ClusterShutdown",
    "Counted",
    "Credential",
    "Effect",
    "Event",
    "Fence",
    "FenceReceipt",
    "Fencing",
    "Generation",
    "Group",
    "GroupTerm",
    "Ha",
    "Halt",
    "Hint",
    "HostReturn",
    "Image",
    "ImageState",
    "Import",
    "JoinAnswer",
    "JoinRequest",
    "JoinSettings",
    "JoinToken",
    "Leader",
    "Maintenance",
    "Nic",
    "NodeAlive",
    "NodeExpression",
    "NodeFacts",
    "NodeSpec",
    "NodeState",
    "OnHostShutdown",
    "Operator",
    "Penalty",
    "Phase",
    "PinMove",
    "Placement",
    "Power",
    "Project",
    "Record",
    "Refusal",
    "Removal",
    "Resources",
    "RevokedSerial",
    "Running",
    "Secret",
    "Silenced",
    "SpreadTerm",
    "StorageIdentity",
    "StoragePlace",
    "Taint",
    "Ticket",
    "Toleration",
    "Trashed",
    "VmId",
    "VmSpec",
    "VmStatus",
    "Volume",
    "Weights",
    "is_halted",
    "resolved_claim",
    "resolved_intent",
    "token",
    "token_generation",
    "token_revision",
    "valid_name",
]
