"""``secret key``: the keys of this host's keyring.

Owns: which change of the keyring is refused. Refuses: its format (:mod:`metastack.secrets.keyring`).
Rule: no key leaves the keyring while a secret is encrypted under it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from msgspec import Struct

from metastack.secrets import keyring as files
from metastack.secrets.keyring import Keyring, KeyringError

from ..problem import Code, Problem, conflict, not_found
from ..request import Cluster
from .secrets import key_users


class KeyView(Struct, kw_only=True):
    """A key as a reader sees it."""

    id: str
    created: str
    newest: bool


def views(keyring: Keyring) -> list[KeyView]:
    return [KeyView(id=k.id, created=k.created, newest=k is keyring.newest) for k in keyring.keys]


@contextmanager
def _problem() -> Iterator[None]:
    try:
        yield
    except KeyringError as error:
        code = Code.NOT_FOUND if error.missing else Code.FAILED
        raise Problem(code, "keyring", error.message, error.hint) from None


def read_keyring(path: Path) -> Keyring:
    """The keyring; raises Problem."""
    with _problem():
        return files.read(path)


def create_key(path: Path) -> Keyring:
    """Add a new key, which is the newest; make the file when there is none."""
    with _problem(), files.changing(path):
        old = _present(path)
        keys = old.keys if old is not None else ()
        return files.save(path, (*keys, files.new_key(datetime.now(UTC), old)))


def add_keys(path: Path, other: Path) -> Keyring:
    """Add the keys of another keyring."""
    with _problem(), files.changing(path):
        old, more = _present(path), files.read(other)
        keys = {key.id: key for key in (*more.keys, *(old.keys if old is not None else ()))}
        return files.save(path, keys.values())


async def remove_key(cluster: Cluster, path: Path, key_id: str) -> Keyring:
    """Take a key away that no secret needs."""
    object = f"key {key_id}"
    if used := await key_users(cluster, key_id):
        raise conflict(
            object,
            f"encrypts {len(used)} of the secrets, such as {used[0]}",
            "`metastack secret rotate` encrypts them under the newest key",
        )
    with _problem(), files.changing(path):
        old = files.read(path)
        if old.get(key_id) is None:
            raise not_found(object, "`metastack secret key list` shows the keys")
        if key_id == old.newest.id:
            raise conflict(
                object, "is the newest, which encrypts", "`metastack secret key create` makes another"
            )
        return files.save(path, (key for key in old.keys if key.id != key_id))


def _present(path: Path) -> Keyring | None:
    try:
        return files.read(path)
    except KeyringError as error:
        if error.missing:
            return None
        raise
