"""Storage keys: read again, and given to libvirt again, when the storage refuses them.

Owns: when that is done. Refuses: keeping a key: the storage adapter has it, and libvirt.
Rule: an administrator rotates a key by replacing it in Ceph and in its file, in either order; no agent
restarts. The adapter replaces a refused key by itself: so what is in use is compared with what was told.
"""

from __future__ import annotations

import structlog

from ...ports import CephSecret, Denied, Hypervisor, Refused, Storage, Unavailable
from ..report.health import Health
from .session import Session

log = structlog.get_logger()


class StorageKeys:
    """The keys of one node."""

    def __init__(self, storage: Storage, hypervisor: Hypervisor, session: Session, health: Health) -> None:
        self._storage, self._hypervisor = storage, hypervisor
        self._session, self._health = session, health
        self._due = False
        """Other keys are in use, and not everybody was told."""
        self._taught: CephSecret | None = None
        """What libvirt was taught last."""

    async def teach(self) -> None:
        """Teach libvirt the key; raises Unavailable, Refused."""
        secret = self._storage.libvirt_secret()
        if secret is not None:
            await self._hypervisor.teach_secret(secret)
        self._taught = secret

    async def refused(self) -> bool:
        """A guest's start was refused: read the keys again, and teach libvirt. True: it is worth another try.

        Also when the file says what it said: libvirt's copy may be another.
        """
        try:
            changed = await self.look()
            if not changed:
                await self.teach()
        except (Unavailable, Refused) as error:
            log.info("secret_update_failed", error=str(error))
            return False
        return changed

    async def look(self) -> bool:
        """Read the keys again; true when others are in use now than libvirt was taught."""
        try:
            changed = await self._storage.read_keys_again()
        except Denied as error:
            self._health.keys_why = str(error)
            raise
        self._health.keys_why = ""
        changed = changed or self._storage.libvirt_secret() != self._taught
        self._due = self._due or changed or not await self._session.client_is_declared()
        if self._due:
            # The agent is another client of the storage now, and the node that fences this one has to know it.
            await self._session.declare()
            await self.teach()
            self._due = False
        return changed
