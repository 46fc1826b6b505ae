"""Storage keys: read again, and given to libvirt again, when the storage refuses them.

Owns: when that is done, and that the guests' key comes from a secret where the settings name one.
Refuses: keeping a key: the storage adapter has it, and libvirt.
Rule: an administrator rotates a key by replacing it in Ceph and in its file, in either order; no agent
restarts. The adapter replaces a refused key by itself: so what is in use is compared with what was told.
"""

from __future__ import annotations

import base64
import binascii

import structlog
from msgspec.structs import replace

from ...ports import CephSecret, Denied, Hypervisor, Refused, Storage, Unavailable
from ..report.health import Health
from .secret_reader import SecretReader
from .session import Session

log = structlog.get_logger()


class StorageKeys:
    """The keys of one node."""

    def __init__(
        self,
        storage: Storage,
        hypervisor: Hypervisor,
        session: Session,
        health: Health,
        secrets: SecretReader,
        guest_secret: str = "",
    ) -> None:
        """``guest_secret``: the secret with the guests' key; empty: the storage's settings have it."""
        self._storage, self._hypervisor = storage, hypervisor
        self._secrets, self._guest_secret = secrets, guest_secret
        self._session, self._health = session, health
        self._due = False
        """Other keys are in use, and not everybody was told."""
        self._taught: CephSecret | None = None
        """What libvirt was taught last."""

    async def begin(self) -> None:
        """Teach libvirt the key at the agent's start; raises Unavailable, Refused.

        A secret that cannot be read is no obstacle: guests that run have their key, and the node must not be
        fenced for it. The next look tries again.
        """
        try:
            await self._guests_key()
        except (Unavailable, Refused) as error:
            self._health.keys_why = str(error)
            log.warning("keys_reload_failed", node=self._session.name, error=str(error))
            return
        await self.teach()

    async def _guests_key(self) -> CephSecret | None:
        secret = self._storage.libvirt_secret()
        if secret is None or not self._guest_secret:
            return secret
        text = await self._secrets.value(self._guest_secret)
        try:
            return replace(secret, key=base64.b64decode(text.strip(), validate=True))
        except binascii.Error:
            raise Denied(
                f"secret {self._guest_secret}: is no cephx key: put there what `ceph auth get-key` prints"
            ) from None

    async def teach(self) -> None:
        """Teach libvirt the key; raises Unavailable, Refused."""
        secret = await self._guests_key()
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
            guests = await self._guests_key()
        except Denied as error:
            self._health.keys_why = str(error)
            raise
        self._health.keys_why = ""
        changed = changed or guests != self._taught
        self._due = self._due or changed or not await self._session.client_is_declared()
        if self._due:
            # The agent is another client of the storage now, and the node that fences this one has to know it.
            await self._session.declare()
            await self.teach()
            self._due = False
        return changed
