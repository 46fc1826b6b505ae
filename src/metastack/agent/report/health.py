"""Health: faults that this node finds in itself, in words, for ``node show`` and ``doctor``.

Owns: the list of an agent's own warnings. Refuses: acting on any of them, and looking at other nodes.
Rule: a warning says what follows from it, and goes away when its cause does.
"""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Callable, Collection
from pathlib import Path

import structlog
from msgspec import Struct

from ...core.domains import Domain
from ...core.model import NodeFacts
from ...core.state.cluster_state import ClusterState
from ...ports import Denied, Fenced, Refused, Storage, Unavailable
from ..session.foreign_guests import strangers

log = structlog.get_logger()

RIGHTS_S = 60.0
SILENT = 3
"""After this many looks without an answer this node takes no VM until the storage answers again."""


class Health(Struct, kw_only=True):
    """What an agent knows of itself that may be wrong."""

    addresses: tuple[str, ...] = ()
    """Towards the storage, as configured."""
    watchdog_device: str = ""
    units: Path | None = None
    """Folder of the units that are enabled here; None: not looked at."""
    host: tuple[str, ...] = ()
    """What the hypervisor said of the machine."""
    rights: tuple[str, ...] = ()
    """What the storage's user may not do and should, or may and should not."""
    damaged: tuple[str, ...] = ()
    """Domains of ours that do not say what they are."""
    strangers: tuple[str, ...] = ()
    """Domains of other nodes on this host."""
    console_why: str = ""
    """Why nobody can open a console here; empty: they can."""
    storage_why: str = ""
    """Why the storage could not be asked just now; empty: it answered."""
    keys_why: str = ""
    """Why the key in the key file is not used; empty: it is."""
    secret_keys: tuple[str, ...] = ()
    """Ids of the keys in its keyring."""
    keyring_why: str = ""
    """Why its keyring cannot be used; empty: it can, or there is none."""
    silent: int = 0
    """How often it did not answer, one after the other."""
    seen_as: str | None = None
    """Under which address the storage sees this node; None: not asked yet."""
    disk_why: str = ""
    """Why ``state_dir`` did not take what was to be kept; empty: it did."""
    settings: str = ""
    """That the cluster's settings cannot be read, and what follows; empty: they can."""
    certificate: Callable[[], str] = str
    """What is wrong with the certificate that it shows to etcd; empty: nothing, or it has none."""
    removals: Callable[[], tuple[str, ...]] = tuple
    """What this node could not remove, and why."""

    async def try_rights(self, storage: Storage) -> None:
        """Find out what this node's user may do. That it cannot be found out is no obstacle to anything."""
        try:
            async with asyncio.timeout(RIGHTS_S):
                self.rights = await storage.rights()
                self.seen_as = await storage.own_address()
        except (Unavailable, Refused, TimeoutError) as error:
            self.rights = (f"its rights could not be found out: {error}",)
        for text in self.rights:
            log.warning("storage_rights", what=text)

    def note_domains(self, domains: Collection[Domain], me: str) -> None:
        """Note those that cannot be read, and another node's, loudly."""
        others = strangers(domains, me)
        if others != self.strangers:
            for text in others:
                log.error("domain_of_another_node", what=text)
        self.strangers = others
        found = tuple(sorted(damaged(domain) for domain in domains if domain.damaged))
        if found != self.damaged:
            for text in found:
                log.error("damaged_domain", what=text)
        self.damaged = found

    def note_config(self, world: ClusterState) -> None:
        """The settings are news: note, loudly, whether they can be read."""
        before, self.settings = self.settings, config_warning(world)
        if self.settings and self.settings != before:
            log.error("settings_unreadable", known=world.known_config.was_read, error=world.known_config.why)
        elif before and not self.settings:
            log.warning("settings_readable")

    def note_storage_answer(self, error: Exception | None) -> None:
        """The storage was asked something small: it answered, or not."""
        self.storage_why = "" if error is None or isinstance(error, Fenced) else str(error)
        self.silent = self.silent + 1 if self.storage_why and isinstance(error, Unavailable) else 0
        if isinstance(error, Denied):
            self.silent = SILENT  # no VM could open its disk here: none is taken until the key is right

    def note_state_dir(self, why: str) -> None:
        """What was seen of etcd was to be kept on this host's disk: why it could not be; empty: it was."""
        if why and why != self.disk_why:
            log.error("state_dir_failed", error=why)
        elif self.disk_why and not why:
            log.warning("state_dir_recovered")
        self.disk_why = why

    @property
    def storage_ok(self) -> bool:
        """The storage answers, as far as anybody knows: a single silence is none."""
        return self.silent < SILENT


def damaged(domain: Domain) -> str:
    """What to say of a domain whose metadata cannot be read."""
    return (
        f"the domain {domain.name} ({domain.uuid}) is MetaStack's but has unreadable metadata: it is ignored, "
        "and its VM neither starts nor leaves here; once its guest may end, virsh destroy and undefine it"
    )


def config_warning(world: ClusterState) -> str:
    """What to say of settings that cannot be read; empty: they can."""
    config = world.known_config
    if not config.why:
        return ""
    if config.was_read:
        return f"uses the settings that it read last: {config.why}"
    return (
        f"the settings could not be read since this agent started: {config.why}. It fences no node, not "
        "on request either, and uses safe ones: a lease of 60 s, an hour for a guest to shut down"
    )


def warnings(
    health: Health, known: NodeFacts | None, unblock_pending: bool, fences_away: bool
) -> tuple[str, ...]:
    """Everything worth a warning. ``fences_away``: this storage can shut nodes out."""
    found = [
        *health.host,
        *health.damaged,
        *health.strangers,
        *health.removals(),
        *(why for why in (health.console_why, health.settings, health.certificate()) if why),
    ]
    if fences_away:
        found += health.rights
        if health.storage_why:
            found.append(f"the storage does not answer, so this node can fence no node: {health.storage_why}")
        if health.seen_as == "":
            found.append("the storage does not report the address that it sees of this node: it is not checked")
        declared = known.storage_addresses if known is not None else ()
        if old := [address for address in declared if address not in health.addresses]:
            found.append(
                f"declared {', '.join(old)} before but is not configured with it now: a fence blocks that too, "
                "whichever host has it now"
            )
    if health.keys_why:
        found.append(f"a storage key cannot be used, so an older one is in use: {health.keys_why}")
    if health.keyring_why:
        found.append(f"its keyring cannot be used, so it reads no secret: {health.keyring_why}")
    if health.disk_why:
        found.append(
            f"its state_dir fails: {health.disk_why}. Its VMs keep running; it could not begin another session"
        )
    if unblock_pending:
        found.append(
            "an unblock of an earlier agent may be in progress: the node waits before it becomes ready"
        )
    if health.units is not None and any(health.units.glob("*.wants/libvirt-guests.service")):
        found.append(
            "libvirt-guests is enabled: at a shutdown of this host it saves guests to the local disk, or stops "
            "them for good (systemctl disable libvirt-guests)"
        )
    if health.watchdog_device and (why := _watchdog(health.watchdog_device)):
        found.append(f"watchdog_device {health.watchdog_device} {why}: it would not reset this host")
    return tuple(found)


def _watchdog(path: str) -> str:
    """Why the device is of no use. It is not opened: that would start its timer."""
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if not stat.S_ISCHR(mode):
        return "is not a device"
    return "" if os.access(path, os.W_OK) else "cannot be written"
