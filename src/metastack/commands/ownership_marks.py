"""The mark that a command expects on what it removes, or writes on what it makes.

Owns: reading the cluster's own id. Refuses: writing marks on what exists already, which agents do.
"""

from __future__ import annotations

from metastack.core.model import StorageIdentity, Trashed
from metastack.ports import Mark

from .request import Cluster


async def mark_of(cluster: Cluster, kind: str, uuid: str) -> Mark:
    """What an object of this cluster bears; of an empty cluster where none was recorded."""
    found = await cluster.read(StorageIdentity, cluster.keys.storage())
    ours = found.record.cluster_id if found is not None and found.record is not None else ""
    return Mark(cluster=ours, kind=kind, record=uuid)


def mark_in_trash(record: Trashed) -> Mark:
    """What a disk bore when it was moved to the trash."""
    return Mark(cluster=record.cluster_id, kind="disk", record=record.uuid)
