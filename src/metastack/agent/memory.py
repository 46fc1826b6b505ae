"""What a node remembers about a VM between two looks: timers and counters for comfort, three notes for safety.

Everything may be lost with the agent: the barrier of the next ends what ``unsettled``, ``stray`` and ``making``
are about. Rule: within an agent's life those are forgotten only when they are false, and nobody keeps a memory
over a step that may forget it.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..core.model import VmId


@dataclass
class VmMemory:
    """Timers of one VM, loop seconds."""

    rank: int | None = None
    rank_since_s: float = 0.0
    crashes: int = 0
    """How often the guest ended by itself."""
    failures: int = 0
    """Boots that failed one after the other."""
    retry_at_s: float = 0.0
    stop_from_s: float | None = None
    stop_key: tuple[str, int] = ("", 0)
    """UUID and epoch of the domain that is being stopped."""
    asked_at_s: float = 0.0
    healthy_from_s: float | None = None
    message: str = ""
    failed: bool = False
    """The last boot was refused for a reason that stays."""
    unsettled: bool = False
    """The outcome of a transaction of mine is unknown."""
    stray: bool = False
    """A boot, kill or shutdown of mine got no answer in time: its call may still be in flight."""
    making: bool = False
    """A disk that I was making got no answer in time: it may still appear."""
    damaged: str = ""
    """A domain of this VM is here that does not say what it is: nothing is started or released."""
    locks_broken: int = 0
    """Epoch for which the locks of the node before were broken."""

    def forget_stop(self) -> None:
        self.stop_from_s, self.stop_key, self.asked_at_s = None, ("", 0), 0.0


@dataclass
class Memory:
    """Memories of every VM that this node deals with."""

    vms: dict[VmId, VmMemory] = field(default_factory=dict)

    def of(self, vm: VmId) -> VmMemory:
        return self.vms.setdefault(vm, VmMemory())

    def forget(self, vm: VmId) -> None:
        self.vms.pop(vm, None)
