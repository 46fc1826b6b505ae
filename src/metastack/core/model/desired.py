"""Records under ``desired/``: what people want. Only commands write them."""

from __future__ import annotations

from msgspec import Struct, field

from .config import OnHostShutdown
from .names import Power, VmId
from .numbers import Record
from .placing import Ha, Placement, Taint


class Nic(Struct, frozen=True, kw_only=True):
    """One network card: a bridge and the MAC allocated once at creation."""

    bridge: str
    mac: str


class VmSpec(Record, frozen=True, kw_only=True):
    """``desired/vms/<project>/<vm>``: what a person wants."""

    v: int = 2
    project: str
    name: str
    uuid: str
    image: str
    image_uuid: str
    volume_uuid: str
    """Names the root disk in the storage (CE6: never the VM's name)."""
    cpus: int
    memory_mib: int
    disk_bytes: int
    power: Power = Power.ON
    run: int = 1
    """Raised by start and restart: a domain of a lower run is stopped, a halt of a lower run is void."""
    force: bool = False
    """How the last stop or restart is done: true pulls the plug."""
    paused_epoch: int = 0
    """The claim epoch in which the VM is to stay paused; another epoch's boot runs."""
    nics: tuple[Nic, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    placement: Placement = Placement()
    resources: dict[str, int] = field(default_factory=dict)
    """Whole amounts of what nodes declare beside vCPU and memory: hugepages, GPUs, virtual functions."""
    ha: Ha = Ha()
    created: str = ""
    by: str = ""
    reason: str = ""
    request_id: str = ""

    @property
    def id(self) -> VmId:
        return VmId(self.project, self.name)


class NodeSpec(Record, frozen=True, kw_only=True):
    """``desired/nodes/<node>``: what a person wants of a node."""

    v: int = 3
    cordoned: bool = False
    draining: bool = False
    labels: dict[str, str] = field(default_factory=dict)
    overcommit_cpu: float | None = None
    overcommit_memory: float | None = None
    overcommit: dict[str, float] = field(default_factory=dict)
    """Of the node's other resources; 1 unless said."""
    taints: tuple[Taint, ...] = ()
    on_host_shutdown: OnHostShutdown | None = None
    """Instead of the cluster's setting; None: as there."""
    by: str = ""
    reason: str = ""
    request_id: str = ""
