"""The boot gate's verdict: ``judge(asked)`` tells whether a VM may start while clients have its disk open.

Owns: that decision, before every boot and every resume. Refuses: asking the storage, and acting.
Rule: while a client that the storage has not shut out has the disk open, nothing starts. It holds whatever the
records say, since records may be deleted, believed of the wrong storage, or copied with their host.

Safety: a client is passed over only where the storage refuses what it sends, or, before a resume, where it is
the very guest that is resumed. A client that is dead for sure is shut out first: should that proof be wrong,
nothing it sends lands any more. What the gate cannot see is a client that was cut off for longer than one watch
timeout and never held the lock: then the protocol alone keeps it from writing.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from msgspec import Struct

from .domains import Opener

UNWATCHED_S: Final = 5.0
"""A lock's owner that watches no more is dead after so long.

Ceph lists a silent client as a watcher for its watch timeout (30 s): a lock's owner that is not listed was
silent for all of it. The second look spares a client that is just renewing its watch."""
PATIENCE_S: Final = 40.0
"""Tools that copy a disk open it briefly: so long the VM only waits."""


class GateView(Struct, frozen=True, kw_only=True):
    """Everything that bears on one start."""

    openers: tuple[Opener, ...]
    node: str
    """Me."""
    resuming: bool = False
    """The guest is here and paused: it has its own disk open."""
    own: frozenset[str] = frozenset()
    """Clients that are recorded as this domain's own."""
    here: frozenset[str] = frozenset()
    """Addresses under which the storage sees this host now."""
    pid: int = 0
    """QEMU of this domain's UUID on this host, whoever knows it; 0: none lives."""
    shared: bool = False
    """Nodes share their address: it does not tell whose a client is."""
    nodes: Mapping[str, str] = {}
    """Storage address to the other node that declared it."""
    alive: frozenset[str] = frozenset()
    """Nodes whose alive key is there."""
    unwatched_s: Mapping[str, float] = {}
    """How long each client has been seen to hold a lock without watching."""


class AllowBoot(Struct, frozen=True):
    """Nobody is in the way."""


class EvictClient(Struct, frozen=True):
    """Shut this client out and break its lock, then ask again."""

    client: str
    why: str
    dead: bool
    """Its process is known to be gone."""


class BreakLock(Struct, frozen=True):
    """A client that is shut out still has its lock: break it, then ask again."""

    client: str
    address: str


class FenceFirst(Struct, frozen=True):
    """The client is on a node that is gone: fence that node."""

    node: str
    opener: Opener


class WaitForClient(Struct, frozen=True):
    """Start nothing, and ask again."""

    opener: Opener
    where: str
    """Whose client it is, for people; empty: unknown."""
    soon: bool = False
    """It ends by itself: a dead client's lock that is broken after one watch timeout."""


Verdict = AllowBoot | EvictClient | BreakLock | FenceFirst | WaitForClient


def in_the_way(opener: Opener) -> bool:
    """It has to be dealt with. A lock that was taken by hand is: the guest would wait for it for ever."""
    return opener.by_hand or not opener.shut_out


def judge(asked: GateView) -> Verdict:
    """One step towards a start, or why there is none. The client that is dealt with most easily comes first."""
    found = [opener for opener in asked.openers if in_the_way(opener) and not _is_guest(asked, opener)]
    for opener in found:
        if why := _dead(asked, opener):
            return EvictClient(opener.client, why, dead=opener.client in asked.own)
    if asked.pid and not asked.resuming:
        lost = Opener(client=f"QEMU process {asked.pid}", pid=asked.pid)
        return WaitForClient(lost, f"on {asked.node}, unknown to libvirtd")
    for opener in found:
        node = asked.nodes.get(opener.address, "")
        if node and not asked.shared and not opener.by_hand and node not in asked.alive:
            return FenceFirst(node, opener)
    if found:
        soon = all(not opener.watching and not opener.by_hand for opener in found)
        watching = next((opener for opener in found if opener.watching or opener.by_hand), found[0])
        return WaitForClient(watching, whose(asked, watching), soon)
    if not asked.resuming:
        for opener in asked.openers:
            if opener.locking and opener.shut_out:
                return BreakLock(opener.client, opener.address)
    return AllowBoot()


def _is_guest(asked: GateView, opener: Opener) -> bool:
    """Before a resume: it is the guest's own QEMU, alive as it should be."""
    if not asked.resuming or not asked.pid:
        return False
    if not opener.address:  # a file's lock is held by one process at a time
        return opener.pid in (0, asked.pid)
    return opener.client in asked.own


def _dead(asked: GateView, opener: Opener) -> str:
    """Why this client can only be dead; empty: it may live."""
    if opener.by_hand or not opener.address:
        return ""
    if opener.client in asked.own and not asked.pid and opener.address in asked.here:
        return "its QEMU on this host has ended"
    if not opener.watching and asked.unwatched_s.get(opener.client, 0.0) >= UNWATCHED_S:
        return "it holds the lock and was silent for longer than Ceph's watch timeout"
    return ""


def whose(asked: GateView, opener: Opener) -> str:
    """On which node a client is, for people; empty: nobody knows."""
    if opener.pid and not opener.address:
        return f"on {asked.node}"
    if asked.shared or not opener.address:
        return ""
    if opener.address in asked.here:
        return f"node {asked.node}, and not the VM's own QEMU"
    node = asked.nodes.get(opener.address, "")
    return f"node {node}" if node else ""


def may_break(asked: GateView, opener: Opener) -> str:
    """Why a person may not have this client shut out; empty: they may.

    A client that is connected and on a living node is that node's: what it runs would lose its disk.
    """
    if not opener.address:
        return f"{opener.client} holds the lock of a file: only the end of that process releases it"
    if asked.pid and opener.client in asked.own:
        return f"{opener.client} is the VM's own QEMU"
    if asked.shared or not opener.watching:
        return ""
    node = asked.node if opener.address in asked.here else asked.nodes.get(opener.address, "")
    if node == asked.node or node in asked.alive:
        return f"{opener.client} is a client of {node}, which is alive: close the disk there"
    return ""


def told(wait: WaitForClient) -> str:
    """What a person should know of it, and do."""
    opener = wait.opener
    where = f" ({wait.where})" if wait.where else ""
    if opener.pid and not opener.address and not opener.locking:
        return (
            f"its {opener.client} runs {wait.where}: end it there (kill {opener.pid}), "
            "or stop the VM, which ends it"
        )
    at = f" at {opener.address}" if opener.address else ""
    how = "locked by hand by" if opener.by_hand else "open by"
    return f"its disk is {how} {opener.client}{at}{where}"


WHAT_TO_DO: Final = (
    "close it there; if the client never returns: metastack vm break-lock {name} --yes --reason WHY"
)
