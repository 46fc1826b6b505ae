"""Names of objects, and the words for their states.

Rule: a name is a DNS label, so that it is one path segment, one host name and one label everywhere.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final

from msgspec import Struct

NAME_RE: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
"""A DNS label (RFC 1123): what every project, VM, node, image and network is called."""


def valid_name(name: str) -> bool:
    """True for a DNS label."""
    return NAME_RE.fullmatch(name) is not None


class VmId(Struct, frozen=True, order=True, gc=False):
    """A VM's name: unique in its project; the UUID in the spec tells two VMs of one name apart."""

    project: str
    name: str

    def __str__(self) -> str:
        return f"{self.project}/{self.name}"


class Phase(StrEnum):
    """Where a VM is in its life, as a reader sees it."""

    PENDING = "pending"
    CLAIMED = "claimed"
    WAITING = "waiting"
    """Somebody else has its disk open: it is not started before they close it."""
    STARTING = "starting"
    RUNNING = "running"
    PAUSED = "paused"
    STOPPING = "stopping"
    STOPPED = "stopped"
    MIGRATING = "migrating"
    FAILED = "failed"
    STALLED = "stalled"
    """A reader's word, never in a record: it runs on a node whose storage is silent, and waits for its disk."""


class NodeState(StrEnum):
    """What a node is good for, as a reader sees it."""

    READY = "ready"
    CORDONED = "cordoned"
    DRAINING = "draining"
    LEAVING = "leaving"
    """Its host shuts down."""
    LOST = "lost"


class Power(StrEnum):
    """What a person wants a VM's power to be."""

    ON = "on"
    OFF = "off"
