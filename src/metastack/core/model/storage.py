"""The cluster's storage: which one its disks are in, and what a client of one is connected to.

Rule: a place is what the storage itself says; the record is what a person, by a command, made of it.
"""

from __future__ import annotations

from msgspec import Struct

from .numbers import Record


class StoragePlace(Struct, frozen=True, kw_only=True):
    """One pool or folder, told from every other; the same from wherever it is reached."""

    kind: str
    """``ceph`` or ``file``."""
    fsid: str = ""
    """ceph: the cluster's. file: the id in the folder's mark, wherever that is mounted; empty: it has none."""
    pool: str = ""
    """ceph: the pool's name, by which guests open their disks."""
    pool_id: int = 0
    """ceph: a pool that was removed and made again under its name has another. 0: none."""


class StorageIdentity(Record, frozen=True, kw_only=True):
    """``config/storage``: the storage of this cluster, and the cluster's own id. Written by ``cluster init``,
    ``dev up`` or ``cluster storage``, never by an agent: the first to come may have the wrong settings."""

    kind: str
    fsid: str = ""
    pool: str = ""
    pool_id: int = 0
    cluster_id: str
    """Random, ours: what this cluster writes on what it owns in the storage."""
    created: str = ""
    by: str = ""
    reason: str = ""
    request_id: str = ""

    @property
    def place(self) -> StoragePlace:
        return StoragePlace(kind=self.kind, fsid=self.fsid, pool=self.pool, pool_id=self.pool_id)
