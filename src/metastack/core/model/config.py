"""Records under ``config/``: settings, projects, images.

Rule: every setting has bounds and a default that is right for a cluster of three nodes.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final

from msgspec import Meta

from .numbers import Record
from .placing import Weights


class Fencing(StrEnum):
    """How a node is shut out of the storage."""

    ADDRESS = "address"
    """Its whole address: every client there, including later ones."""
    CLIENT = "client"
    """Its single clients, for nodes that share an address; weaker (docs/internals/safety.md)."""


class OnHostShutdown(StrEnum):
    """What becomes of a node's VMs when its host shuts down or reboots in order."""

    RELEASE = "release"
    """Guests are asked to stop, and other nodes start them at once."""
    RETURN = "return"
    """Guests are asked to stop, and the node boots them again when its host is back."""
    LEAVE = "leave"
    """Nothing is done: the guests end with the host, and the node is fenced like a lost one."""


class ClusterConfig(Record, frozen=True, kw_only=True):
    """``config/cluster``: the platform's settings, typed and bounded; agents follow changes live."""

    v: int = 3
    record_version: Annotated[int, Meta(ge=1)] = 1
    """Level of the records that agents and commands write. Raised by
    ``metastack cluster upgrade-finish`` only, once every node reads more."""
    lease_ttl_s: Annotated[int, Meta(ge=2, le=60)] = 5
    """Life of a node's lease, seconds. etcd's floor is ceil(1.5 x election timeout): 2 s at its defaults."""
    grace_s: Annotated[float, Meta(ge=0.0, le=60.0)] = 0.5
    """Wait between the expiry of a lease and the fence, seconds. For comfort, not for safety."""
    overcommit_cpu: Annotated[float, Meta(ge=0.1, le=64.0)] = 4.0
    """vCPUs promised for each physical CPU."""
    overcommit_memory: Annotated[float, Meta(ge=0.1, le=4.0)] = 1.0
    """Guest memory promised for each byte of a node's memory left after the host reserve."""
    host_reserve_mib: Annotated[int, Meta(ge=0, le=1 << 20)] = 1024
    """Memory of each node that VMs never get, MiB."""
    rank_delay_ms: Annotated[int, Meta(ge=1, le=5000)] = 30
    """Delay between two ranks that try to claim the same VM, milliseconds."""
    weight_spread: Annotated[float, Meta(ge=0.0, le=100.0)] = 1.0
    """Score weight of an empty node. Weight 0 leaves a part out of the score."""
    weight_pack: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.0
    """Score weight of a full node."""
    weight_balanced: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.0
    """Score weight of a node whose used shares of vCPU and memory are alike."""
    weight_image: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.0
    """Score weight of a node that runs a VM of the same image: its blocks are cached."""
    weight_last_node: Annotated[float, Meta(ge=0.0, le=100.0)] = 0.0
    """Score weight of the node where the VM ran last."""
    spare_nodes: Annotated[int, Meta(ge=0, le=64)] = 0
    """Refuse new VMs that would leave too little capacity for the VMs of this many lost nodes."""
    boots_at_once: Annotated[int, Meta(ge=1, le=64)] = 4
    """VMs that one node boots at the same time; the rest wait in the order of their priority."""
    brake_percent: Annotated[int, Meta(ge=0, le=100)] = 50
    """Fence no node if more than this share of the joined, uncordoned nodes vanished within the window.
    0: nodes are fenced only by hand; 100: no brake."""
    brake_window_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    """Window of the mass brake, seconds."""
    fencing: Fencing = Fencing.ADDRESS
    """Scope of a fence in Ceph: a node's whole address, or, where nodes share one, only its single clients.
    The second is weaker: see docs/internals/safety.md."""
    storage_lost_s: Annotated[int, Meta(ge=0, le=86_400)] = 120
    """Fence a live node if its storage is silent for this long but answers other nodes, seconds. 0: never."""
    stop_timeout_s: Annotated[int, Meta(ge=1, le=3600)] = 60
    """Time for a guest to shut down gracefully before it is forced off, seconds."""
    on_host_shutdown: OnHostShutdown = OnHostShutdown.RELEASE
    """Policy for a node's VMs at a shutdown or reboot of its host. ``release``: guests are asked to stop, and
    other nodes start them. ``return``: guests are asked to stop, and the host boots them again. ``leave``: no
    guest is asked, and the node is fenced like a lost one."""
    host_return_s: Annotated[int, Meta(ge=10, le=86_400)] = 600
    """Time that a host's VMs wait for its return before other nodes take them, seconds."""
    trash_retention_s: Annotated[int, Meta(ge=0, le=31_536_000)] = 86_400
    """Time that a deleted disk stays in the trash, seconds."""
    crash_backoff_s: Annotated[float, Meta(ge=0.1, le=600.0)] = 2.0
    """First wait after a guest crashed; doubles with every crash, seconds."""
    crash_backoff_max_s: Annotated[float, Meta(ge=1.0, le=86_400.0)] = 300.0
    """Maximum wait between two boots of a guest that keeps crashing, seconds."""
    full_look_s: Annotated[int, Meta(ge=5, le=3600)] = 30
    """Interval of an agent's full check without any event, seconds. At the default of 30,
    agents of large clusters list etcd less often; another value is used as given."""
    event_retention_days: Annotated[int, Meta(ge=1, le=365)] = 7
    """Retention of entries under events/, days."""
    history_versions: Annotated[int, Meta(ge=1, le=1000)] = 20
    """Spec versions kept for each VM."""
    default_network: str = ""
    """Bridge of a VM that names none; empty: no NIC."""
    default_pool: str = "vms"
    """Ceph pool (or folder of the file backend) for disks and images."""
    syslog: str = ""
    """Central syslog server as ``tcp://HOST:PORT``; empty: none."""

    @property
    def weights(self) -> Weights:
        """What makes a node the better place, together."""
        return Weights(
            spread=self.weight_spread,
            pack=self.weight_pack,
            balanced=self.weight_balanced,
            image=self.weight_image,
            last_node=self.weight_last_node,
        )


CAREFUL: Final = ClusterConfig(
    lease_ttl_s=60,
    brake_percent=0,
    brake_window_s=3600,
    storage_lost_s=0,
    stop_timeout_s=3600,
    trash_retention_s=31_536_000,
    event_retention_days=365,
)
"""What an agent goes by that starts while the settings cannot be read: nobody is fenced by itself, no node lost
for a lease that should have been longer, no guest forced off and nothing removed earlier than people said."""


class Admission(Record, frozen=True, kw_only=True):
    """``config/admission``: changes with every VM that is let in while ``spare_nodes`` is above 0, so that two
    that were judged from the same view cannot both be written."""

    vm: str
    """``project/name`` of the last that was let in."""
    by: str = ""
    request_id: str = ""


class Backup(Record, frozen=True, kw_only=True):
    """``config/backup``: where the newest backup of etcd is, as ``cluster backup`` wrote it last."""

    at: str
    """When it was complete, RFC 3339 UTC."""
    by: str
    host: str
    """The machine that has the file."""
    file: str
    revision: int
    """Everything up to it is in the file."""
    size_bytes: int
    sha256: str


class Project(Record, frozen=True, kw_only=True):
    """``config/projects/<name>``: a name space for VMs. ``default`` exists without a record."""

    name: str
    created: str = ""
    by: str = ""
    reason: str = ""
    request_id: str = ""


class ImageState(StrEnum):
    IMPORTING = "importing"
    READY = "ready"
    DELETING = "deleting"


class Image(Record, frozen=True, kw_only=True):
    """``config/images/<name>``: what disks are cloned from. While ``importing`` the key is leased."""

    name: str
    uuid: str
    """Names the image in the storage: a re-import under the same name is another image."""
    state: ImageState
    format: str = "raw"
    """Format of the source: raw or qcow2. In the storage it is the backend's own."""
    size_bytes: int = 0
    """Virtual size, bytes; 0 while importing."""
    sha256: str = ""
    """Of the source file as it was read."""
    source: str = ""
    created: str = ""
    """RFC 3339, UTC."""
    by: str = ""
    importer: str = ""
    """The importing process, as ``host:pid``; for people only."""
    message: str = ""
