"""The faults there are: where each strikes, for how long, and how often it is chosen.

Owns: the table. Refuses: doing any of it (:mod:`.inject`) and choosing (:mod:`.schedule`).
Rule: two faults of one round never strike the same place.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class Kind(StrEnum):
    POWER_CUT = "power-cut"
    AGENT_KILLED = "agent-killed"
    AGENT_FROZEN_BRIEFLY = "agent-frozen-briefly"
    AGENT_FROZEN_LONG = "agent-frozen-long"
    CUT_ETCD = "cut-from-etcd"
    CUT_STORAGE = "cut-from-storage"
    CUT_ALL = "cut-from-all"
    LIBVIRTD_KILLED = "libvirtd-killed"
    LIBVIRTD_FROZEN = "libvirtd-frozen"
    ETCD_LEADER_KILLED = "etcd-leader-killed"
    ETCD_LEADER_FROZEN = "etcd-leader-frozen"
    ETCD_QUORUM_LOST = "etcd-quorum-lost"
    OSD_KILLED = "osd-killed"
    MON_KILLED = "mon-killed"
    QEMU_FROZEN = "qemu-frozen"
    """QEMUs and agent frozen beyond the lease; the QEMUs thaw first, when others have their VMs."""
    HOST_THAWS_QEMU_FIRST = "host-frozen-qemu-first"
    HOST_THAWS_AGENT_FIRST = "host-frozen-agent-first"
    HOST_THAWS_LIBVIRTD_FIRST = "host-frozen-libvirtd-first"
    FENCER_KILLED = "fencer-killed"
    """A power cut, and the node that fences is killed about when its block lands."""
    MON_FROZEN_IN_FENCE = "mon-frozen-in-fence"
    OSD_FROZEN_IN_FENCE = "osd-frozen-in-fence"
    LIBVIRTD_KILLED_OFTEN = "libvirtd-killed-six-times"
    CLOCK_TURNED = "clock-turned"
    """The agent comes back on a clock that is two days ahead."""
    ETCD_DATA_LOST = "etcd-leader-loses-data"
    """The leader's data is gone while a node is cut off; the member joins again from nothing."""
    VIRSH_BY_HAND = "virsh-by-hand"
    """Guests are destroyed, started, suspended by hand under a frozen agent."""


class Shape(Struct, frozen=True):
    place: str
    """``node`` (one of them), ``etcd`` or ``ceph``."""
    weight: int
    hold_s: tuple[float, float]
    """How long until it is taken back, from and to."""


TTL_S = 3
"""The cluster's node lease. The holds below are shorter or longer than this on purpose."""

SHAPES: dict[Kind, Shape] = {
    Kind.POWER_CUT: Shape("node", 6, (2.0, 12.0)),
    Kind.AGENT_KILLED: Shape("node", 3, (0.0, 0.0)),
    Kind.AGENT_FROZEN_BRIEFLY: Shape("node", 2, (0.5, 2.0)),
    Kind.AGENT_FROZEN_LONG: Shape("node", 5, (5.0, 10.0)),
    Kind.CUT_ETCD: Shape("node", 5, (1.0, 11.0)),
    Kind.CUT_STORAGE: Shape("node", 3, (1.0, 9.0)),
    Kind.CUT_ALL: Shape("node", 4, (1.0, 11.0)),
    Kind.LIBVIRTD_KILLED: Shape("node", 2, (0.0, 0.0)),
    Kind.LIBVIRTD_FROZEN: Shape("node", 3, (1.0, 8.0)),
    Kind.ETCD_LEADER_KILLED: Shape("etcd", 3, (1.0, 5.0)),
    Kind.ETCD_LEADER_FROZEN: Shape("etcd", 3, (1.0, 6.0)),
    Kind.ETCD_QUORUM_LOST: Shape("etcd", 1, (4.0, 60.0)),
    Kind.OSD_KILLED: Shape("ceph", 2, (0.5, 6.0)),
    Kind.MON_KILLED: Shape("ceph", 2, (0.5, 6.0)),
    Kind.QEMU_FROZEN: Shape("node", 3, (6.0, 12.0)),
    Kind.HOST_THAWS_QEMU_FIRST: Shape("node", 2, (5.0, 10.0)),
    Kind.HOST_THAWS_AGENT_FIRST: Shape("node", 2, (5.0, 10.0)),
    Kind.HOST_THAWS_LIBVIRTD_FIRST: Shape("node", 2, (5.0, 10.0)),
    Kind.FENCER_KILLED: Shape("node", 3, (6.0, 12.0)),
    Kind.MON_FROZEN_IN_FENCE: Shape("node", 2, (6.0, 14.0)),
    Kind.OSD_FROZEN_IN_FENCE: Shape("node", 2, (6.0, 14.0)),
    Kind.LIBVIRTD_KILLED_OFTEN: Shape("node", 2, (0.0, 0.0)),
    Kind.CLOCK_TURNED: Shape("node", 2, (4.0, 10.0)),
    Kind.ETCD_DATA_LOST: Shape("etcd", 2, (4.0, 8.0)),
    Kind.VIRSH_BY_HAND: Shape("node", 3, (2.0, 9.0)),
}


ROLES = ("busiest", "second", "third")
"""Which node is struck: the one with most guests when the round begins, and so on. By a name it would often be
one that has none: a guest stays where it was taken to."""
ROLE_WEIGHTS = (5, 3, 2)

HARMLESS = frozenset(
    {
        *(kind for kind, shape in SHAPES.items() if shape.place != "node" and kind is not Kind.ETCD_DATA_LOST),
        Kind.AGENT_FROZEN_BRIEFLY,
        Kind.LIBVIRTD_KILLED,
        Kind.LIBVIRTD_FROZEN,
        Kind.LIBVIRTD_KILLED_OFTEN,
        Kind.CUT_STORAGE,
    }
)
"""Faults that should end no guest. A machine without time for its agents may lose a lease all the same: that is
told, and no violation."""


class Fault(Struct, frozen=True, kw_only=True):
    """One fault of a round."""

    kind: Kind
    target: str
    """One of ROLES, or a node's name; ``etcd`` or ``ceph`` when the member is found at the moment itself."""
    begin_s: float
    """After the round's start."""
    hold_s: float

    def __str__(self) -> str:
        held = f" {self.hold_s:.1f} s" if self.hold_s else ""
        return f"{self.kind} {self.target} at {self.begin_s:.1f}{held}"
