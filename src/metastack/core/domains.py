"""Domains and disk openers as a node sees them: the local half of a snapshot.

Owns: the vocabulary shared by :mod:`metastack.core.plan` and the Hypervisor port.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct


class DomainState(StrEnum):
    """What a domain is doing."""

    DEFINED = "defined"
    """Defined and not running (never started, or ended)."""
    RUNNING = "running"
    PAUSED = "paused"
    """By a person, or started paused."""
    IO_ERROR = "io_error"
    """Paused by ``error_policy=stop``: the storage refuses or fails."""
    SHUTTING_DOWN = "shutting_down"


class EndReason(StrEnum):
    """Why a domain that ran is not running."""

    NONE = ""
    SHUTDOWN = "shutdown"
    """The guest powered itself off, or followed our graceful request."""
    DESTROYED = "destroyed"
    """By us."""
    CRASHED = "crashed"
    """QEMU died, or the guest panicked."""
    FAILED = "failed"
    """It never started."""
    SAVED = "saved"
    """Its memory was saved by hand (``virsh managedsave``, ``libvirt-guests``), and waits to go on."""


class Domain(Struct, frozen=True, kw_only=True):
    """A local domain, with what its metadata says."""

    uuid: str
    """The VM's UUID: it is the domain's too."""
    project: str
    name: str
    state: DomainState
    end: EndReason = EndReason.NONE
    session: int = 0
    epoch: int = 0
    run: int = 0
    volume_uuid: str = ""
    clients: tuple[str, ...] = ()
    """Clients of the storage that its QEMU was seen to be, ``ADDRESS:PORT/NONCE``; empty: not looked at yet."""
    node: str = ""
    """Whose guest it is; empty: written by an older version."""
    managed: bool = True
    """False: its metadata is not ours, or cannot be read; leave it alone."""
    transient: bool = False
    """It runs and is not defined any more (``virsh undefine``): ended, it would leave no trace."""
    damaged: bool = False
    """It is ours, and its metadata cannot be read: nobody knows which VM it is but by its UUID."""

    @property
    def active(self) -> bool:
        """It runs, or could write."""
        return self.state is not DomainState.DEFINED


class Live(Struct, frozen=True, kw_only=True):
    """What a domain is made of right now."""

    disk: str
    """Where its root disk writes: an absolute path, or ``pool/image``."""
    others: tuple[str, ...] = ()
    """Its other disks, as text."""
    nics: tuple[tuple[str, str], ...] = ()
    """MAC and bridge of each NIC."""
    cpus: int = 0
    memory_mib: int = 0


class Opener(Struct, frozen=True, kw_only=True):
    """A client that has a disk open for writing, or holds a lock on it."""

    client: str
    """``ADDRESS:PORT/NONCE``; of a file, the process or the host that holds the lock."""
    address: str = ""
    """Its IP address; empty: the storage does not tell."""
    watching: bool = True
    """It is connected, or was within one watch timeout."""
    locking: bool = False
    by_hand: bool = False
    """It took the lock with a command (``rbd lock add``): no client ever gives such a lock back."""
    shut_out: bool = False
    """The storage refuses what it sends."""
    pid: int = 0
    """Its process on this host; 0: unknown, or elsewhere."""


def of_another(domain: Domain, me: str) -> bool:
    """It is another node's, so it is not this node's, whatever its VM: nothing is done to it."""
    return domain.managed and domain.node not in ("", me)
