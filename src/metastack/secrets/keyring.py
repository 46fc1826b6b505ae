"""The keyring: the file of the cluster keys that secrets are encrypted under.

Owns: the file's format and mode, and which key is the newest. Refuses: etcd, and which key is still in use.
Rule: a key's id is its digest, so a damaged line is noticed and an id never means two keys. A file that others
may read is not used. The file is replaced as a whole, under a lock on its folder.

One key a line: ``ID CREATED KEY``, the moment in RFC 3339 UTC and the key in base64; ``#`` begins a comment.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

from msgspec import Struct

from ..pki.atomic_file import write

DEFAULT_FILE: Final = "/etc/metastack/secrets.key"
KEY_BYTES: Final = 32
MAX_KEYS: Final = 64
_MAX_FILE_BYTES: Final = 16 * 1024
_COPY: Final = "copy the file from another host"
_MOMENT: Final = "%Y-%m-%dT%H:%M:%SZ"
_CREATED: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", re.ASCII)


class KeyringError(Exception):
    """A keyring that cannot be used, and what to do about it; the message has no part of a key."""

    def __init__(self, message: str, hint: str, *, missing: bool = False) -> None:
        super().__init__(message)
        self.message, self.hint = message, hint
        self.missing = missing
        """There is no such file."""


class ClusterKey(Struct, frozen=True, order=True):
    """A key that wraps data keys. The order is that of age."""

    created: str
    id: str
    key: bytes

    def __repr__(self) -> str:
        return f"ClusterKey({self.id})"

    @staticmethod
    def of(key: bytes, created: str) -> ClusterKey:
        return ClusterKey(created, hashlib.sha256(b"metastack key id\0" + key).hexdigest()[:16], key)


class Keyring(Struct, frozen=True):
    """Keys from the oldest to the newest; never empty."""

    keys: tuple[ClusterKey, ...]

    @property
    def newest(self) -> ClusterKey:
        return self.keys[-1]

    @property
    def ids(self) -> tuple[str, ...]:
        return tuple(key.id for key in self.keys)

    def get(self, key_id: str) -> ClusterKey | None:
        return next((key for key in self.keys if key.id == key_id), None)


def new_key(now: datetime, after: Keyring | None = None) -> ClusterKey:
    """A random key that is newer than every other, also where the clock went back."""
    created = now.astimezone(UTC)
    if after is not None:
        created = max(created, _moment(after.newest.created) + timedelta(seconds=1))
    return ClusterKey.of(os.urandom(KEY_BYTES), created.strftime(_MOMENT))


def _moment(text: str) -> datetime:
    return datetime.strptime(text, _MOMENT).replace(tzinfo=UTC)


def parse(text: str, what: str) -> Keyring:
    """A keyring's text; raises :class:`KeyringError` that names the line and shows nothing of it."""
    keys: dict[str, ClusterKey] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        key = _key_of(words)
        if key is None:
            raise KeyringError(f"{what}: line {number} is no key, or is damaged", _COPY)
        keys[key.id] = key
    if not 0 < len(keys) <= MAX_KEYS:
        raise KeyringError(f"{what}: has {len(keys)} keys, not 1 to {MAX_KEYS}", _COPY)
    return Keyring(tuple(sorted(keys.values())))


def _key_of(words: list[str]) -> ClusterKey | None:
    if len(words) != 3 or not _CREATED.fullmatch(words[1]):
        return None
    try:
        _moment(words[1])
        key = ClusterKey.of(base64.b64decode(words[2], validate=True), words[1])
    except (ValueError, binascii.Error):
        return None
    return key if len(key.key) == KEY_BYTES and key.id == words[0] else None


def read(path: Path) -> Keyring:
    """The keyring in a file that only its owner reads; raises :class:`KeyringError`."""
    try:
        with path.open("rb") as file:
            mode = stat.S_IMODE(os.fstat(file.fileno()).st_mode)
            if mode & 0o077:
                raise KeyringError(
                    f"{path}: others may read or change it (mode {mode:04o})",
                    f"`chmod 600 {path}`; if others have read it, create a key and rotate",
                )
            raw = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        raise KeyringError(
            f"{path}: there is no such keyring",
            "copy it from a host that has it; for the first of a cluster `metastack secret key create`",
            missing=True,
        ) from None
    except OSError as error:
        raise KeyringError(f"{path}: cannot be read: {error.strerror}", "read it as root") from None
    if len(raw) > _MAX_FILE_BYTES:
        raise KeyringError(f"{path}: is too large for a keyring", _COPY)
    return parse(raw.decode("ascii", "replace"), str(path))


@contextmanager
def changing(path: Path) -> Iterator[None]:
    """Hold the folder's lock, so that two commands lose no key; raises :class:`KeyringError`."""
    try:
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
            yield
        finally:
            os.close(folder)
    except OSError as error:
        raise KeyringError(f"{path}: cannot be written: {error.strerror}", "run it as root") from None


def save(path: Path, keys: Iterable[ClusterKey]) -> Keyring:
    """Replace the file, mode 0600; raises OSError, and :class:`KeyringError` for too many keys."""
    lines = (f"{k.id} {k.created} {base64.b64encode(k.key).decode()}\n" for k in sorted(keys))
    text = "".join(lines)
    found = parse(text, str(path))
    write(path, text.encode(), 0o600)
    return found
