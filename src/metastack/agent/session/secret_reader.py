"""Secrets as an agent reads them: each from etcd when it is needed, opened with this host's keyring.

Owns: which keys this node reports. Refuses: keeping a value; whoever asked for it does.
Rule: no error, event or record has any part of a value or of a key.
"""

from __future__ import annotations

from collections.abc import Callable

import structlog

from ...core.model import Secret
from ...core.state.cluster_state import seen
from ...core.state.keys import Keys
from ...ports import Denied, Store
from ...secrets.keyring import Keyring, KeyringError
from ..report.health import Health

log = structlog.get_logger()


def no_keyring() -> Keyring:
    """Of an agent that has none."""
    raise KeyringError("there is no keyring", "", missing=True)


class SecretReader:
    """The secrets of one node."""

    def __init__(self, store: Store, keys: Keys, keyring: Callable[[], Keyring], health: Health) -> None:
        """``keyring`` reads the file; it raises KeyringError."""
        self._store, self._keys, self._keyring, self._health = store, keys, keyring, health

    def look(self) -> None:
        """Note which keys this node has; a node without secrets needs no keyring."""
        why = ""
        ids: tuple[str, ...] = ()
        try:
            ids = self._keyring().ids
        except KeyringError as error:
            why = "" if error.missing else str(error)
        if why and why != self._health.keyring_why:
            log.warning("keyring_unusable", error=why)
        self._health.secret_keys, self._health.keyring_why = ids, why

    async def value(self, name: str) -> bytes:
        """A secret's value; raises Denied, Unavailable."""
        from ...secrets.envelope import Unopened, unseal  # cryptography: only where a secret is used

        key = self._keys.secret(name)
        entry = await self._store.get(key)
        found = seen(Secret, entry) if entry is not None else None
        if found is None:
            raise Denied(f"secret {name}: does not exist: `metastack secret put {name}`")
        if found.record is None:
            raise Denied(f"secret {name}: its record cannot be read: {found.why}")
        try:
            return unseal(self._keyring(), key, found.record)
        except (KeyringError, Unopened) as error:
            raise Denied(f"secret {name}: {error}") from None
