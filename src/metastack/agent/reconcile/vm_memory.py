"""A node's memory of a VM between two looks: timers and counters for comfort, three notes for safety.

Everything may be lost with the agent: the next agent's barrier ends what ``claim_in_flight``,
``order_in_flight`` and ``disk_in_flight`` are about.
Rule: within an agent's life those are forgotten only when they are false. Nobody keeps a memory over a
step that may forget it.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from ...core.model import VmId


@dataclass
class VmMemory:
    """Timers of one VM, loop seconds."""

    rank: int | None = None
    rank_since_s: float = 0.0
    crashes: int = 0
    """How often the guest ended by itself."""
    failures: int = 0
    """Boots that failed one after the other."""
    failed_mod: int = 0
    """Revision of the spec that could not be started; 0: none."""
    node_faults: int = 0
    """Boots that failed one after the other for a reason of this node."""
    node_fault: str = ""
    held_from_s: float = field(default_factory=lambda: asyncio.get_running_loop().time())
    """Since when it is this node's, or this agent remembers it."""
    retry_at_s: float = 0.0
    stop_from_s: float | None = None
    stop_key: tuple[str, int] = ("", 0)
    """UUID and epoch of the domain that is being stopped."""
    asked_at_s: float = 0.0
    healthy_from_s: float | None = None
    message: str = ""
    failed: bool = False
    """The last boot was refused for a reason that stays."""
    claim_in_flight: bool = False
    """The outcome of a transaction of this node is unknown."""
    order_in_flight: bool = False
    """A boot, kill or shutdown of this node got no answer in time: its call may still be in flight."""
    disk_in_flight: bool = False
    """A disk that this node was making got no answer in time: it may still appear."""
    new_disk: bool = False
    """This node claimed it together with the record of its disk, and has not made the disk yet."""
    damaged: str = ""
    """A domain of this VM is here that does not say what it is: nothing is started or released."""
    locks_broken: int = 0
    """Epoch for which the locks of the node before were broken."""
    clients: tuple[str, ...] = ()
    """Clients of the storage that its QEMU here was, as its domain's metadata said last."""
    look_for_clients_s: float = 0.0
    """Not before then its QEMU's clients are looked for once more."""
    ended: str = ""
    """How the guest ended that ran before this one, when somebody ended it by hand."""
    pending_event: str = ""
    """To be told by an event with the next status."""
    refused: str = ""
    """The step that is refused again and again."""
    drift: tuple[str, ...] = ()
    """How the guest differs from its spec (:mod:`.drift`)."""
    elsewhere: str = ""
    """Where it writes, when that is not its disk."""
    held_drift: bool = False
    """For that it is not ended."""
    drift_look_s: float = 0.0
    """Not before then it is compared once more."""
    lost: str = ""
    """Its QEMU runs here and libvirtd does not know: nothing is started."""
    gate: GateWait = field(default_factory=lambda: GateWait())

    proven: int = 0
    """Epoch in which the fences that the VM was taken over by were found to stand."""

    def forget_stop(self) -> None:
        self.stop_from_s, self.stop_key, self.asked_at_s = None, ("", 0), 0.0


@dataclass
class GateWait:
    """A start that waits for somebody to close the disk."""

    since_s: float | None = None
    """When it was first found open; None: nothing waits."""
    held_by: str = ""
    """Whose client is in the way."""
    failed: bool = False
    """It took too long: a person is needed."""
    tries: int = 0
    """Since it failed."""
    unwatched_from_s: dict[str, float] = field(default_factory=dict)
    """Clients that hold the lock without watching, and since when they were seen to."""

    def passed(self) -> None:
        self.since_s, self.held_by, self.failed, self.tries = None, "", False, 0
        self.unwatched_from_s.clear()


@dataclass
class VmMemories:
    """Memories of every VM that this node deals with."""

    vms: dict[VmId, VmMemory] = field(default_factory=dict)

    def of(self, vm: VmId) -> VmMemory:
        return self.vms.setdefault(vm, VmMemory())

    def forget(self, vm: VmId) -> None:
        self.vms.pop(vm, None)
