"""The seams to the world: Store, Hypervisor, Storage, Network, and the error families.

Owns: what the rest of the program may ask of an adapter, in terms that every adapter can keep.
Refuses: anything that names etcd, libvirt or Ceph.
Rule: every method that blocks in a thread is counted; ``quiesce()`` returns only when no call is in flight,
because cancelling an await does not stop its thread.
"""

from __future__ import annotations

from ..core.domains import Domain, DomainState, EndReason, Opener
from .errors import (
    BadState,
    Broken,
    CannotStart,
    Compacted,
    Denied,
    Exists,
    Fenced,
    InUse,
    InvalidImage,
    LeaseGone,
    LocalTrouble,
    MissingDisk,
    NodeFault,
    NoSpace,
    NotFound,
    NotOurs,
    ObjectFault,
    Refused,
    StartUnknown,
    Unavailable,
    UnknownOutcome,
)
from .hypervisor import ConsoleStream, DomainEvent, DomainSpec, HostFacts, Hypervisor, NicSpec
from .levelled import Levelled
from .local_io import local_io
from .network import Network
from .ownership import UNMARKED, Mark, Standing
from .storage import (
    CephSecret,
    Clients,
    DiskFormat,
    DiskInfo,
    DiskSource,
    ImageInfo,
    Progress,
    Storage,
    StorageOwner,
    Stray,
    TrashedDisk,
)
from .store import Store

__all__ = [
    "UNMARKED",
    "BadState",
    "Broken",
    "CannotStart",
    "CephSecret",
    "Clients",
    "Compacted",
    "ConsoleStream",
    "Denied",
    "DiskFormat",
    "DiskInfo",
    "DiskSource",
    "Domain",
    "DomainEvent",
    "DomainSpec",
    "DomainState",
    "EndReason",
    "Exists",
    "Fenced",
    "HostFacts",
    "Hypervisor",
    "ImageInfo",
    "InUse",
    "InvalidImage",
    "LeaseGone",
    "Levelled",
    "LocalTrouble",
    "Mark",
    "MissingDisk",
    "Network",
    "NicSpec",
    "NoSpace",
    "NodeFault",
    "NotFound",
    "NotOurs",
    "ObjectFault",
    "Opener",
    "Progress",
    "Refused",
    "Standing",
    "StartUnknown",
    "Storage",
    "StorageOwner",
    "Store",
    "Stray",
    "TrashedDisk",
    "Unavailable",
    "UnknownOutcome",
    "local_io",
]
